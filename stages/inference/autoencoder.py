"""Where a trained autoencoder lies, and how it is loaded."""

from models.autoencoders.model import KLAutoencoder, VQAutoencoder
from models.autoencoders.registry import read_spec
from stages.contract.errors import ArtifactError
from stages.formats.model_folders import load_model_config, load_model_state
from stages.storage.artifact import Artifact

AUTOENCODER = "autoencoder"


def load_autoencoder(artifact: Artifact) -> KLAutoencoder | VQAutoencoder:
    """Load what train_autoencoder made, frozen, to the CPU."""
    config = load_model_config(artifact, AUTOENCODER)
    try:
        model: KLAutoencoder | VQAutoencoder = read_spec(config["model"]).build()
    except (TypeError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{artifact.path(AUTOENCODER)}: the autoencoder's configuration cannot be read ({error}): expected one of "
            f"this version: delete the artifact {artifact.uri} and train anew"
        ) from error
    try:
        model.load_state_dict(load_model_state(artifact, AUTOENCODER))
    except RuntimeError as error:
        raise ArtifactError(
            f"{artifact.path(AUTOENCODER)}: the weights do not fit the configuration beside them "
            f"({str(error).splitlines()[0]}): delete the artifact {artifact.uri} and train anew"
        ) from error
    return model.eval().requires_grad_(False)
