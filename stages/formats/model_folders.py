"""Trained models as folders of config.json and model.safetensors.

Weights that lie in other files of the folder anyway, for other programs, are stored there alone: ``parts`` of
config.json says which tensors, by the beginning of their names, are in which file (without that beginning).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stages.contract.errors import ArtifactError
from stages.contract.parsing import load_json, parsing, shown
from stages.storage.artifact import Artifact, Output
from stages.storage.names import is_file_name

if TYPE_CHECKING:
    from torch import Tensor, nn

DECODER = "decoder"
"""The folder of a decoder in the artifact of train_decoder."""
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PARTS = "parts"
MAX_HEADER = 100_000_000  # bytes of a safetensors file's header; the limit of the library


def save_model(
    output: Output,
    folder: str,
    model: "nn.Module | Mapping[str, Tensor]",
    config: dict[str, Any],
    *,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Write a model's weights, then its configuration (JSON-ready), under the folder.

    ``parts`` names the files in the folder, written before, that hold the tensors of a prefix.
    """
    from safetensors.torch import save_file

    state = model if isinstance(model, Mapping) else model.state_dict()
    prefixes = tuple(parts or ())
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)} if prefixes else state
    with output.writing(f"{folder}/{WEIGHTS}") as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}, path)
    output.write_json(f"{folder}/{CONFIG}", config | ({PARTS: dict(parts)} if parts else {}))


def load_model_config(artifact: Artifact, folder: str) -> dict[str, Any]:
    """Read the configuration that was saved beside the weights."""
    config: dict[str, Any] = artifact.read_json(f"{folder}/{CONFIG}")
    parts = config.get(PARTS, {}) if isinstance(config, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(name, str) and is_file_name(name) for name in parts.values()):
        raise ArtifactError(
            f"{artifact.path(folder)}/{CONFIG}: {PARTS} is {shown(parts)}: expected a mapping to files of the folder: "
            "take a folder as train_decoder writes it"
        )
    return config


def load_model_state(artifact: Artifact, folder: str) -> "dict[str, Tensor]":
    """Read the weights, to the CPU."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = load_file(artifact.local(f"{folder}/{WEIGHTS}"))
    for prefix, name in load_model_config(artifact, folder).get(PARTS, {}).items():
        part: dict[str, Tensor] = load_file(artifact.local(f"{folder}/{name}"))
        state |= {f"{prefix}{tensor}": value for tensor, value in part.items()}
    return state


def files_of(artifact: Artifact, folder: str) -> tuple[str, ...]:
    """Return all files that loading the model reads, by their names in the folder."""
    return (CONFIG, WEIGHTS, *load_model_config(artifact, folder).get(PARTS, {}).values())


def missing_files(artifact: Artifact, folder: str) -> list[str]:
    """Return which of the two files of every saved model the folder lacks."""
    return [name for name in (CONFIG, WEIGHTS) if not artifact.exists(f"{folder}/{name}")]


def count_numbers(artifact: Artifact, folder: str) -> int:
    """Return how many numbers a saved model holds, statistics included, by its headers; or raise ArtifactError."""
    return sum(_numbers_in(artifact, f"{folder}/{name}") for name in files_of(artifact, folder) if name != CONFIG)


def _numbers_in(artifact: Artifact, name: str) -> int:
    """Add up the shapes in a safetensors file's header: its length in 8 bytes, then JSON."""

    def damaged(reason: str) -> ArtifactError:
        return ArtifactError(f"{artifact.path(name)}: no safetensors file ({reason}): delete that folder and run again")

    with parsing(damaged), artifact.open_part(name) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = load_json(file.read(size), max_bytes=MAX_HEADER)
        return sum(math.prod(entry["shape"]) for tensor, entry in header.items() if tensor != "__metadata__")
