"""Where a trained autoencoder lies, and how it is loaded."""

from models.autoencoders.model import KLAutoencoder, VQAutoencoder, make_autoencoder
from models.autoencoders.spec import AutoencoderConfig
from stages.contract.errors import ArtifactError
from stages.formats.model_folders import load_model_config, load_model_state
from stages.storage.artifact import Artifact

AUTOENCODER = "autoencoder"


def load_autoencoder(artifact: Artifact) -> KLAutoencoder | VQAutoencoder:
    """Load what train_autoencoder made, frozen, to the CPU.

    Raises:
        ArtifactError: the weights do not fit the configuration beside them.
    """
    config = load_model_config(artifact, AUTOENCODER)
    model = make_autoencoder(AutoencoderConfig(**config["model"]))
    try:
        model.load_state_dict(load_model_state(artifact, AUTOENCODER))
    except RuntimeError as error:
        raise ArtifactError(
            f"{artifact.path(AUTOENCODER)}: the weights do not fit the configuration beside them "
            f"({str(error).splitlines()[0]}): delete the artifact {artifact.uri} and train anew"
        ) from error
    return model.eval().requires_grad_(False)
