"""How images are drawn from a trained decoder, as plain data: it imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderSampling:
    """What every kind of decoder may be asked for; a kind reads the fields that it has a use for."""

    num_steps: int = 20
    """Solver steps of a diffusion; of a cascade, the first model's."""
    guidance_scale: float = 1.0
    """Classifier-free guidance (Ho and Salimans 2022); 1: none."""
    dynamic_threshold: float | None = None
    """Diffusion of pixels: share of a predicted image's values that may not be clipped (Imagen: 0.995); none: clip
    all of them to [-1, 1]."""
    temperature: float = 1.0
    """Autoregressive decoders: what the logits are divided by."""
    top_k: int | None = None
    """Autoregressive decoders: the most likely codes that may be drawn; none: all."""
    truncation: float = 1.0
    """Generators with a style: how far a style may go from the mean one; 1: as far as it is."""
    upsampling_steps: int | None = None
    """Cascades: solver steps of each super-resolution model; none: num_steps."""
    noise_augmentation: float = 0.0
    """Cascades: noise put on a super-resolution model's input, of those that it was trained with, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field and what is allowed."""
        self._require("num_steps", self.num_steps >= 1, "1 or more")
        self._require("guidance_scale", self.guidance_scale >= 0.0, "0 or more")
        fraction = self.dynamic_threshold
        self._require("dynamic_threshold", fraction is None or 0.0 < fraction <= 1.0, "above 0 up to 1, or none")
        self._require("temperature", self.temperature > 0.0, "above 0")
        self._require("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or none")
        self._require("truncation", self.truncation >= 0.0, "0 or more")
        self._require("upsampling_steps", self.upsampling_steps is None or self.upsampling_steps >= 1, "1 or more")
        self._require("noise_augmentation", 0.0 <= self.noise_augmentation <= 1.0, "0 to 1")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"DecoderSampling.{name}: found {getattr(self, name)!r}: expected {allowed}")
