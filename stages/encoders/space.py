"""The encoders of images and of texts that an experiment configures under ``clip``."""

from dataclasses import dataclass

import torch

from stages.encoders.clip import ClipEncoder, GpuPrecision
from stages.encoders.config import ClipConfig
from stages.encoders.image_encoder import ImageEncoder, VisionEncoder
from stages.formats.clips import Clips


@dataclass(frozen=True)
class Encoders:
    """CLIP models, and what embeds images: they themselves, or another encoder in their place."""

    clip: ClipEncoder
    images: ImageEncoder

    @property
    def is_one_space(self) -> bool:
        """Whether the embeddings of images and of texts can be compared."""
        return self.images is self.clip

    @property
    def identities(self) -> Clips:
        """Return the identities of all, as artifacts record them."""
        if not isinstance(self.images, VisionEncoder):
            return self.clip.identities
        texts = [model.model_copy(update={"encodes": "texts"}) for model in self.clip.identities]
        return Clips((*texts, self.images.identity), "the configured clip.models and clip.images")


def make_encoders(
    config: ClipConfig,
    *,
    device: torch.device | str | None = None,
    gpu_precision: GpuPrecision = "float16",
    normalised: bool = False,
) -> Encoders:
    """Load the encoders; the options are those of :class:`stages.encoders.clip.ClipEncoder`."""
    clip = ClipEncoder(config, device=device, gpu_precision=gpu_precision, normalised=normalised)
    if config.images is None:
        return Encoders(clip, clip)
    return Encoders(clip, VisionEncoder(config.images, device=clip.device, gpu_precision=gpu_precision))
