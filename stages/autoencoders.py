"""Where a trained autoencoder lies, and how it is loaded."""

from models.decoders.autoencoder import KLAutoencoder, VQAutoencoder, make_autoencoder
from models.decoders.autoencoder_config import AutoencoderConfig
from stages.artifacts import Artifact
from stages.errors import ArtifactError
from stages.model_files import load_model_config, load_model_state

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
