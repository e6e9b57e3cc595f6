"""A trained CLIP model as a folder of open_clip's own format: its writer and reader."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.storage.artifact import Artifact, Output

if TYPE_CHECKING:
    from torch import Tensor

_FOLDER = "clip"
CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = "open_clip_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_tokenizer(output: Output, folder: Path) -> None:
    """Copy the files of a tokenizer, as transformers saves it, from a local folder."""
    for file in sorted(folder.iterdir()):
        output.write_bytes(f"{_FOLDER}/{file.name}", file.read_bytes())


def copy_tokenizer(source: Artifact, folder: str, output: Output) -> None:
    """Copy the files of a tokenizer from the folder of another model."""
    for name in TOKENIZER:
        output.write_bytes(f"{_FOLDER}/{name}", source.local(f"{folder}/{name}").read_bytes())


def local_tokenizer(artifact: Artifact) -> Path:
    """Return a local folder with the tokenizer's files, to be opened at once."""
    files = [artifact.local(f"{_FOLDER}/{name}") for name in TOKENIZER]
    return files[0].parent


def write_clip(output: Output, weights: "Mapping[str, Tensor]", config: Mapping[str, Any]) -> None:
    """Write weights and configuration, beside the tokenizer."""
    from safetensors.torch import save_file

    with output.writing(f"{_FOLDER}/{CLIP_WEIGHTS}") as path:
        save_file(dict(weights), path)
    output.write_json(f"{_FOLDER}/{CLIP_CONFIG}", config)


def local_clip(artifact: Artifact) -> Path:
    """Return a local folder with all files of the model, to be opened at once."""
    for name in artifact.glob(f"{_FOLDER}/*"):
        artifact.local(name)
    return artifact.local(f"{_FOLDER}/{CLIP_CONFIG}").parent
