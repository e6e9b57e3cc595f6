"""Check that the checkpoint is there."""

from stages.contract.errors import InputFault
from stages.encoders.model_files import check_diffusers_folder
from stages.train_decoder.stable_diffusion.config import StableDiffusionConfig

_WANTED = ("model_index.json", "scheduler/scheduler_config.json", "unet/*.safetensors", "vae/*.safetensors")


def check(config: StableDiffusionConfig) -> None:
    """Check that the checkpoint is whole, with weights that can be loaded safely."""
    if config.path is None:
        return
    missing = [pattern for pattern in _WANTED if not any(config.path.glob(pattern))]
    if missing:
        raise InputFault(
            f"train_decoder.path: {config.path} has no {', no '.join(missing)}: expected a Stable Diffusion "
            "checkpoint as diffusers saves it with safe_serialization: convert it, or name another folder"
        )
    check_diffusers_folder(config.path, "train_decoder.path")
