"""A cascade: a decoder of small images, and super-resolution models that enlarge them one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.base import Decoder, Embeddings, Images
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
    def resolution(self) -> int:
        """Side of the last model's images in pixels."""
        return self.upsamplers[-1].resolution if self.upsamplers else self.base.resolution

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
        self.base = base
        self.upsamplers = nn.ModuleList(upsamplers)

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings alike in all models."""
        for model in (self.base, *self.upsamplers):
            model.set_embedding_statistics(mean, std)

    @torch.no_grad()
    def sample(self, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling) -> Images:
        """Generate one image per embedding; every model samples its own noise from an image's seed."""
        return self._enlarged(self.base.sample(embeddings, seeds, sampling), embeddings, seeds, sampling)

    @property
    def reads_text(self) -> bool:
        """As the first model; those that enlarge its images read none."""
        return self.base.reads_text

    @torch.no_grad()
    def sample_with_text(
        self, embeddings: Embeddings, text: Embeddings, seeds: Sequence[int], sampling: DecoderSampling
    ) -> Images:
        """Generate images; the first model is conditioned on the text embeddings, too."""
        images = self.base.sample_with_text(embeddings, text, seeds, sampling)
        return self._enlarged(images, embeddings, seeds, sampling)

    @property
    def can_edit(self) -> bool:
        """As the first model, whose images are edited before they are enlarged."""
        return self.base.can_edit

    @torch.no_grad()
    def edit(
        self,
        images: Images,
        embeddings: Embeddings,
        seeds: Sequence[int],
        sampling: DecoderSampling,
        *,
        strength: float,
        text: Embeddings | None = None,
    ) -> Images:
        """Edit the images at the first model's size, and enlarge what comes of it."""
        side = self.base.spec.resolution
        small = nn.functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
        edited = self.base.edit(small, embeddings, seeds, sampling, strength=strength, text=text)
        return self._enlarged(edited, embeddings, seeds, sampling)

    def _enlarged(
        self, images: Images, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling
    ) -> Images:
        for level, upsampler in enumerate(self.upsamplers, start=1):
            own = [level_seed(seed, level) for seed in seeds]
            images = upsampler.sample(images, embeddings, own, sampling)  # type: ignore[operator]
        return images


def level_seed(seed: int, level: int) -> int:
    """Return the seed of an image's noise at a level of the cascade: independent of those at the others."""
    return int(np.random.SeedSequence([seed, level]).generate_state(1, np.uint64)[0] >> np.uint64(1))
