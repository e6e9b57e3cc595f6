"""How images are sampled from a trained decoder, as plain data: it imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.decoders.buckets import parse_size
from models.fields import ABSENT, require

MOST_STEPS = 10_000  # settings come from image files too, which anybody may have written
MOST_GUIDANCE = 1_000


@dataclass(frozen=True)
class DecoderSampling:
    """The settings of every kind of decoder; a kind reads those that it has a use for."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}

    num_steps: int = 20
    """Solver steps of a diffusion; of a cascade, the first model's."""
    guidance_scale: float = 1.0
    """Classifier-free guidance (Ho and Salimans 2022); 1: none."""
    dynamic_threshold: float | None = None
    """Diffusion of pixels: fraction of a predicted image's values that are not clipped (Imagen: 0.995); none: clip all
    of them to [-1, 1]."""
    temperature: float = 1.0
    """Autoregressive decoders: what the logits are divided by."""
    top_k: int | None = None
    """Autoregressive decoders: how many of the most likely codes are sampled from; none: all."""
    truncation: float = 1.0
    """Generators with a style: distance of a style from the mean one, as a fraction of its own; 1: as it is."""
    upsampling_steps: int | None = None
    """Cascades: solver steps of each super-resolution model; none: num_steps."""
    noise_augmentation: float = 0.0
    """Cascades: noise on a super-resolution model's input, as a fraction of the largest that it was trained with."""
    size: str | None = field(default=None, metadata=ABSENT)
    """Width and height in pixels, such as 96x64: one of the decoder's buckets; none: square."""

    def __post_init__(self) -> None:
        threshold = self.dynamic_threshold
        require(self, "num_steps", 1 <= self.num_steps <= MOST_STEPS, f"1 to {MOST_STEPS}")
        require(self, "guidance_scale", 0.0 <= self.guidance_scale <= MOST_GUIDANCE, f"0 to {MOST_GUIDANCE}")
        require(self, "dynamic_threshold", threshold is None or 0.0 < threshold <= 1.0, "above 0 up to 1, or none")
        require(self, "temperature", 0.0 < self.temperature <= MOST_GUIDANCE, f"above 0 up to {MOST_GUIDANCE}")
        require(self, "top_k", self.top_k is None or self.top_k >= 1, "1 or more, or none")
        require(self, "truncation", 0.0 <= self.truncation <= MOST_GUIDANCE, f"0 to {MOST_GUIDANCE}")
        steps = self.upsampling_steps
        require(self, "upsampling_steps", steps is None or 1 <= steps <= MOST_STEPS, f"1 to {MOST_STEPS}")
        require(self, "noise_augmentation", 0.0 <= self.noise_augmentation <= 1.0, "0 to 1")
        if self.size is not None:
            parse_size(self.size)
