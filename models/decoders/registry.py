"""Make the decoder that a saved configuration describes; a kind's own module is imported when it is asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from models.decoders.base import Decoder

KINDS: Final = ("pixel_diffusion", "latent_diffusion", "stable_diffusion", "vq_autoregressive", "stylegan2")


def make_decoder(config: Mapping[str, Any]) -> "Decoder":
    """Build a decoder with random weights from what its configuration's ``to_dict`` gave.

    Raises:
        ValueError: the kind is unknown, or its fields cannot be built.
    """
    kind = config.get("kind")
    match kind:
        case "pixel_diffusion":
            from models.decoders.pixel_diffusion.model import PixelDecoder
            from models.decoders.pixel_diffusion.spec import PixelDecoderConfig

            return PixelDecoder(PixelDecoderConfig.from_dict(config))
        case "latent_diffusion":
            from models.decoders.latent_diffusion.model import LatentDecoder
            from models.decoders.latent_diffusion.spec import LatentDecoderConfig

            return LatentDecoder(LatentDecoderConfig.from_dict(config))
        case "vq_autoregressive":
            from models.decoders.vq_autoregressive.model import VQDecoder
            from models.decoders.vq_autoregressive.spec import VQDecoderConfig

            return VQDecoder(VQDecoderConfig.from_dict(config))
        case "stable_diffusion":
            from models.decoders.stable_diffusion.model import StableDiffusionDecoder
            from models.decoders.stable_diffusion.spec import StableDiffusionDecoderConfig

            return StableDiffusionDecoder(StableDiffusionDecoderConfig.from_dict(config))
        case "stylegan2":
            from models.decoders.stylegan2.model import StyleGan2Generator
            from models.decoders.stylegan2.spec import StyleGan2Config

            return StyleGan2Generator(StyleGan2Config.from_dict(config))
        case _:
            raise ValueError(f"make_decoder: found kind {kind!r}: expected one of {', '.join(KINDS)}")
