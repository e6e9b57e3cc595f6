"""A cascade: a decoder of small images, and super-resolution models that enlarge them one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text
from models.decoders.buckets import Size
from models.decoders.sampling import DecoderSampling
from models.decoders.spec import AnyDecoderSpec
from models.decoders.upsampler.model import Upsampler
from models.decoders.upsampler.spec import UpsamplerSpec


@dataclass(frozen=True)
class CascadeSpec:
    """The specs of a cascade's models, the smallest first."""

    base: AnyDecoderSpec
    upsamplers: tuple[UpsamplerSpec, ...]
    kind: Literal["cascade"] = "cascade"

    def __post_init__(self) -> None:
        before: AnyDecoderSpec = self.base
        for upsampler in self.upsamplers:
            if upsampler.from_resolution != before.resolution or upsampler.embed_dim != before.embed_dim:
                raise ValueError(
                    f"CascadeSpec.upsamplers: found one from {upsampler.from_resolution} pixels and embeddings of "
                    f"width {upsampler.embed_dim}: expected {before.resolution} pixels and width {before.embed_dim}, "
                    f"which the {before.kind} before it has"
                )
            before = upsampler

    @property
    def embed_dim(self) -> int:
        """Width of the CLIP image embedding."""
        return self.base.embed_dim

    @property
    def text_dim(self) -> int:
        """Width of the CLIP text embedding that the first model reads."""
        return self.base.text_dim

    @property
    def resolution(self) -> int:
        """Side of the last model's images in pixels."""
        return self.upsamplers[-1].resolution if self.upsamplers else self.base.resolution

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The square alone: super-resolution models are trained on squares."""
        return ((self.resolution, self.resolution),)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        upsamplers = [upsampler.to_dict() for upsampler in self.upsamplers]
        return {"kind": self.kind, "base": self.base.to_dict(), "upsamplers": upsamplers}


class Cascade(Decoder):
    """Generates small images, and enlarges them."""

    spec: CascadeSpec

    def __init__(self, base: Decoder, upsamplers: Sequence[Upsampler]) -> None:
        """Join models that were trained apart."""
        super().__init__()
        self.spec = CascadeSpec(base.spec, tuple(upsampler.spec for upsampler in upsamplers))
        self.base, self.can_edit = base, base.can_edit
        self.upsamplers = nn.ModuleList(upsamplers)

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings alike in all models."""
        for model in (self.base, *self.upsamplers):
            model.set_embedding_statistics(mean, std)

    @torch.no_grad()
    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate or edit images at the first model's size, which alone reads texts, and enlarge them.

        Every model samples its own noise from an image's seed.
        """
        if init is not None:
            size = (self.base.spec.resolution,) * 2
            small = nn.functional.interpolate(init.x_0, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
            init = replace(init, x_0=small)
        images = self.base.sample(embeddings, seeds, replace(sampling, size=None), text, init)
        for level, upsampler in enumerate(self.upsamplers, start=1):
            own = [level_seed(seed, level) for seed in seeds]
            images = upsampler.sample(images, embeddings, own, sampling)  # type: ignore[operator]
        return images


def level_seed(seed: int, level: int) -> int:
    """Return the seed of an image's noise at a level of the cascade: independent of those at the others."""
    return int(np.random.SeedSequence([seed, level]).generate_state(1, np.uint64)[0] >> np.uint64(1))
