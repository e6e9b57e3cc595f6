"""Load a trained model; where a trained autoencoder lies."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from models.autoencoders.model import KLAutoencoder, VQAutoencoder
from models.autoencoders.registry import read_spec
from models.fields import Spec
from stages.contract.errors import ArtifactError
from stages.contract.parsing import parsing
from stages.formats.model_folders import load_model_config, load_model_state
from stages.storage.artifact import Artifact

AUTOENCODER = "autoencoder"
_LARGEST = 2**20
_REPEATED = ("num_layers", "mapping_layers", "blocks_per_level", "attention_levels")


def load_model(
    artifact: Artifact, folder: str, read: Callable[[Mapping[str, Any]], Spec]
) -> tuple[Any, dict[str, Any]]:
    """Load what a train_ stage made, frozen, to the CPU, and its configuration; ``read`` makes its spec."""
    config = load_model_config(artifact, folder)
    where, anew = artifact.path(folder), f"delete the artifact {artifact.uri} and train anew"

    def unreadable(reason: str) -> ArtifactError:
        return ArtifactError(
            f"{where}: the {folder}'s configuration cannot be read ({reason}): expected one of this version: {anew}"
        )

    def unfit(reason: str) -> ArtifactError:
        return ArtifactError(f"{where}: the weights do not fit the configuration beside them ({reason}): {anew}")

    with parsing(unreadable):
        spec = read(config["model"])
    with parsing(unfit):
        state = load_model_state(artifact, folder)
    with parsing(unreadable):
        _check_sizes(config["model"], len(state))
        with torch.device("meta"):
            outline: nn.Module = spec.build()
    with parsing(unfit):
        outline.load_state_dict(state, assign=True)  # compares names and shapes, before any memory is taken
        model: nn.Module = spec.build()
        model.load_state_dict(state)
    return model.eval().requires_grad_(False), config


def _check_sizes(values: Any, num_tensors: int, name: str = "model") -> None:
    """Refuse sizes that no model of so many tensors has: what is built of them would fill the memory, or never end."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            _check_sizes(value, num_tensors, str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            _check_sizes(value, num_tensors, name)
    most = num_tensors if name in _REPEATED else _LARGEST
    found = len(values) if isinstance(values, list | tuple) else values
    if isinstance(found, int) and found > most and not name.endswith("seed"):
        raise ValueError(f"{name} is {found}: at most {most} is possible")


def load_autoencoder(artifact: Artifact) -> KLAutoencoder | VQAutoencoder:
    """Load what train_autoencoder made, frozen, to the CPU."""
    model: KLAutoencoder | VQAutoencoder = load_model(artifact, AUTOENCODER, read_spec)[0]
    return model
