"""Check that the autoencoder of a Stable Diffusion checkpoint is there."""

from stages.contract.errors import InputFault
from stages.encode_latents.config import VAE, EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encoders.model_files import check_diffusers_folder


def check(config: EncodeByAutoencoder | EncodeByStableDiffusion) -> None:
    """Check the checkpoint."""
    if isinstance(config, EncodeByAutoencoder) or config.path is None:
        return
    if not (config.path / VAE / "config.json").is_file():
        raise InputFault(
            f"encode_latents.path: {config.path} has no {VAE}/config.json: expected a Stable Diffusion checkpoint in "
            "the format that diffusers saves: convert it, or name another folder"
        )
    check_diffusers_folder(config.path, "encode_latents.path")
