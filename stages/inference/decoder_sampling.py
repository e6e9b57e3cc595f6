"""How a trained decoder is sampled: the settings that its sample grids and generation share."""

from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract.config import ConfigModel

if TYPE_CHECKING:
    from models.decoders import DecoderSampling


class DecoderSamplingConfig(ConfigModel):
    """How a decoder is sampled; a kind of decoder reads what it has a use for (models.decoders.DecoderSampling)."""

    num_steps: PositiveInt = Field(20, description="diffusion: solver steps; of a cascade, the first model's")
    guidance_scale: float = Field(1.0, ge=0.0, description="classifier-free guidance; 1: none")
    dynamic_threshold: float | None = Field(
        None, gt=0.0, le=1.0, description="pixel_diffusion: share of values that may not be clipped; Imagen: 0.995"
    )
    temperature: PositiveFloat = Field(1.0, description="vq_autoregressive: what the logits are divided by")
    top_k: PositiveInt | None = Field(None, description="vq_autoregressive: most likely codes kept; null: all")
    truncation: float = Field(1.0, ge=0.0, description="stylegan2: distance of a style from the mean one")
    upsampling_steps: PositiveInt | None = Field(
        None, description="cascades: solver steps of each super-resolution model; null: num_steps"
    )
    noise_augmentation: float = Field(
        0.0, ge=0.0, le=1.0, description="cascades: noise on a super-resolution model's input, as a share of the "
        "largest that it was trained with",
    )  # fmt: skip

    def settings(self) -> "DecoderSampling":
        """Return the model's own settings."""
        from models.decoders import DecoderSampling

        return DecoderSampling(**self.model_dump(include=set(DecoderSampling.__dataclass_fields__)))
