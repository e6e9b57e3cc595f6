"""Load a trained model; where a trained autoencoder lies."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from models.autoencoders.model import KLAutoencoder, VQAutoencoder
from models.autoencoders.registry import read_spec
from models.fields import Spec
from stages.contract.errors import ArtifactError
from stages.formats.model_folders import load_model_config, load_model_state
from stages.storage.artifact import Artifact

AUTOENCODER = "autoencoder"


def load_model(
    artifact: Artifact, folder: str, read: Callable[[Mapping[str, Any]], Spec]
) -> tuple[Any, dict[str, Any]]:
    """Load what a train_ stage made, frozen, to the CPU, and its configuration; ``read`` makes its spec."""
    config = load_model_config(artifact, folder)
    try:
        model: nn.Module = read(config["model"]).build()
    except (TypeError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{artifact.path(folder)}: the {folder}'s configuration cannot be read ({error}): expected one of this "
            f"version: delete the artifact {artifact.uri} and train anew"
        ) from error
    try:
        model.load_state_dict(load_model_state(artifact, folder))
    except RuntimeError as error:
        raise ArtifactError(
            f"{artifact.path(folder)}: the weights do not fit the configuration beside them "
            f"({str(error).splitlines()[0]}): delete the artifact {artifact.uri} and train anew"
        ) from error
    return model.eval().requires_grad_(False), config


def load_autoencoder(artifact: Artifact) -> KLAutoencoder | VQAutoencoder:
    """Load what train_autoencoder made, frozen, to the CPU."""
    model: KLAutoencoder | VQAutoencoder = load_model(artifact, AUTOENCODER, read_spec)[0]
    return model
