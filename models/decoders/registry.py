"""The kinds of decoders and their specs; no torch. A new kind is a folder beside this file and a line here."""

from collections.abc import Mapping
from typing import Any, Final

from models.decoders.latent_diffusion.spec import LatentDiffusionSpec
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.spec import DecoderSpec
from models.decoders.stable_diffusion.spec import StableDiffusionSpec
from models.decoders.stylegan2.spec import StyleGan2Spec
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from models.fields import read_kind

SPECS: Final[dict[str, type[DecoderSpec]]] = {
    "pixel_diffusion": PixelDiffusionSpec,
    "latent_diffusion": LatentDiffusionSpec,
    "stable_diffusion": StableDiffusionSpec,
    "vq_autoregressive": VQAutoregressiveSpec,
    "stylegan2": StyleGan2Spec,
}


def read_spec(values: Mapping[str, Any]) -> DecoderSpec:
    """Return the spec that its ``to_dict`` wrote."""
    return read_kind("decoder", SPECS, values)
