"""The shapes of published Stable Diffusion checkpoints, as their model cards say, for plans without a network."""

from collections.abc import Mapping
from typing import Any, Final

_UNET: Final = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
_FIRST: Final = {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8}
_SECOND: Final = {
    **_UNET, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
}  # fmt: skip
_VAE: Final = {"latent_channels": 4, "block_out_channels": (128, 256, 512, 512), "scaling_factor": 0.18215}
_NOISE: Final = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_UNETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "CompVis/stable-diffusion-v1-4": _FIRST,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _FIRST,
    "runwayml/stable-diffusion-v1-5": _FIRST,
    "stabilityai/stable-diffusion-2-base": _SECOND,
    "stabilityai/stable-diffusion-2-1-base": _SECOND,
    "stabilityai/stable-diffusion-2": _SECOND,
    "stabilityai/stable-diffusion-2-1": _SECOND,
}


def published_parts(name: str) -> dict[str, Mapping[str, Any]]:
    """Return what the sizes of a checkpoint depend on: the configurations of unet, vae and scheduler."""
    return {"unet": _UNETS[name], "vae": _VAE, "scheduler": _NOISE}
