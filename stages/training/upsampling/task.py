"""What the training loop needs to train a super-resolution model: small and large images, cropped alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.base import from_bytes
from models.decoders.upsampler.model import Upsampler, UpsamplerLoss
from models.decoders.upsampler.spec import UpsamplerSpec
from models.noise import SeededNoise
from stages.training.images.dataset import Indices
from stages.training.images.task import DecoderTask
from stages.training.randomness import make_random_inputs
from stages.training.task import Batch, BatchPart
from stages.training.upsampling.config import UpsamplerTrainingConfig


@dataclass
class UpsamplerTask(DecoderTask):
    """Trains a super-resolution model."""

    config: UpsamplerTrainingConfig
    folder = "upsampler"

    def saved_module(self, model: nn.Module) -> Upsampler:
        """Return what knows the embeddings' statistics and is kept."""
        return cast(UpsamplerLoss, model).upsampler

    @cached_property
    def spec(self) -> UpsamplerSpec:
        """The model's spec."""
        return self.config.spec(self.data.embed_dim)

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Return noise for both images, times, what happens to the embeddings, and where the crop is."""
        return make_random_inputs(self.spec.random_inputs(self.config.crop), part, stream, self.config.seed)

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Read whole images, make small ones of them, and cut the same part out of both."""
        whole = dict(super().batch(indices, part))
        images, corners = whole.pop("images"), whole.pop("corner")
        small = shrink(images, self.config.from_resolution)
        if self.config.crop is None:
            return {**whole, "images": images, "small": small}
        images, small = crop_alike(images, small, corners, self.config.crop)
        return {**whole, "images": images, "small": small}

    def augment(self, batch: Batch, part: BatchPart) -> Batch:
        """Change large images at random, and make the small ones anew."""
        changed = super().augment(batch, part)
        return batch if changed is batch else {**changed, "small": shrink(changed["images"], batch["small"].shape[-1])}

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of: that of crops is another than that of whole images."""
        return super().loss_settings() | {"crop": self.config.crop}

    def generate_samples(self, model: nn.Module, indices: Indices) -> Tensor:
        """Enlarge held-out images that were made small."""
        batch: Mapping[str, Tensor] = self.read(indices)
        small = shrink(batch["images"], self.config.from_resolution).to(self.rank_info.device)
        embeddings = batch["embeddings"].to(self.rank_info.device)
        settings = self.config.samples
        return self.saved_module(model).sample(small, embeddings, list(range(len(indices))), settings)


def shrink(images: UInt8[Tensor, "batch height width 3"], side: int) -> Float[Tensor, "batch 3 side side"]:
    """Return small images in [-1, 1] of whole ones in bytes."""
    small = F.interpolate(from_bytes(images), size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(-1, 1)


def crop_alike(
    images: UInt8[Tensor, "batch height width 3"],
    small: Float[Tensor, "batch 3 small_height small_width"],
    corners: Float[Tensor, "batch 2"],
    crop: int,
) -> tuple[UInt8[Tensor, "batch crop crop 3"], Float[Tensor, "batch 3 small_crop small_crop"]]:
    """Cut the same square out of large and small images; ``corners``, in [0, 1), say where."""
    factor = images.shape[1] // small.shape[2]
    side = crop // factor
    tops: Int[Tensor, "batch 2"] = (corners * (small.shape[2] - side + 1)).long()
    large_parts, small_parts = [], []
    for image, small_image, (top, left) in zip(images, small, tops.tolist(), strict=True):
        small_parts.append(small_image[:, top : top + side, left : left + side])
        rows, columns = slice(top * factor, top * factor + crop), slice(left * factor, left * factor + crop)
        large_parts.append(image[rows, columns])
    return torch.stack(large_parts), torch.stack(small_parts)
