"""What embeds images: CLIP models, or another encoder in their place, such as DINOv2 (arXiv 2304.07193)."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stages.encoders.clip import GpuPrecision, Images, Prepared, PreparedBatch, as_pil, collated
from stages.encoders.config import OneImageEncoder, TimmImages
from stages.encoders.features.timm_model import load_timm
from stages.encoders.features.vision_transformer import load_vision_transformer
from stages.encoders.identity import digest_tensors
from stages.formats.clips import ClipIdentity
from stages.formats.images import square

_WHERE = "clip.images"
_PREPARED = "images"


class ImageEncoder(Protocol):
    """From images to embeddings, float32 on the CPU; :class:`stages.encoders.clip.ClipEncoder` is one."""

    @property
    def block_dims(self) -> tuple[int, ...]:
        """Sizes of the concatenated blocks."""

    @property
    def embed_dim(self) -> int:
        """Size of the whole embedding."""

    def encode_images(self, images: Images) -> Float[Tensor, "batch embed"]:
        """Encode a batch of images: PIL images of any size, or 8-bit RGB arrays."""

    def prepare(self, image: Image.Image) -> Prepared:
        """Crop and scale an RGB image, without torch."""

    def collate(self, prepared: Sequence[Prepared]) -> PreparedBatch:
        """Return prepared images as one batch."""

    def encode_prepared(self, batch: PreparedBatch) -> Float[Tensor, "batch embed"]:
        """Encode a batch of prepared images."""

    def embed_images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch embed"]:
        """Encode square images in [-1, 1] on the encoder's device, with gradients to the images."""


class VisionEncoder:
    """Encode images by a network of vision from a folder.

    Of an image it sees the middle square, scaled to the side of its training by Pillow (bicubic), and standardised by
    its own mean and standard deviation. On a CPU the arithmetic is float32; on a GPU it is ``gpu_precision``.
    """

    def __init__(
        self, source: OneImageEncoder, *, device: torch.device | str, gpu_precision: GpuPrecision = "float16"
    ) -> None:
        """Load it; InputFault: the folder is not what it should be."""
        self.device = torch.device(device)
        self._precision = getattr(torch, gpu_precision)
        if isinstance(source, TimmImages):
            name, _, network, width = load_timm(source.path, f"{_WHERE}.path")
        else:
            name, _, network, width = load_vision_transformer(source.path, _WHERE)
        made_of = hashlib.sha256(f"{name}, middle square of {network.size} px".encode())
        digest = digest_tensors(network.state_dict(), made_of)
        self.identity = ClipIdentity(
            reference=source.reference, digest=digest, embed_dim=width, image_size=network.size, encodes="images"
        )
        self._network = network.to(self.device)

    @property
    def block_dims(self) -> tuple[int, ...]:
        """Its width, alone."""
        return (self.identity.embed_dim,)

    @property
    def embed_dim(self) -> int:
        """Size of an embedding."""
        return self.identity.embed_dim

    def encode_images(self, images: Images) -> Float[Tensor, "batch embed"]:
        """Encode a batch of images: PIL images of any size, or 8-bit RGB arrays."""
        if len(images) == 0:
            return torch.zeros(0, self.embed_dim)
        return self.encode_prepared(self.collate([self.prepare(as_pil(image)) for image in images]))

    def prepare(self, image: Image.Image) -> Prepared:
        """Crop and scale an RGB image; threads may prepare images while the network works."""
        return {_PREPARED: square(image, self.identity.image_size)}

    def collate(self, prepared: Sequence[Prepared]) -> PreparedBatch:
        """Return prepared images as one batch, in pinned memory for a GPU."""
        return collated(prepared, self.device)

    @torch.inference_mode()
    def encode_prepared(self, batch: PreparedBatch) -> Float[Tensor, "batch embed"]:
        """Encode a batch of prepared images."""
        pixels = batch[_PREPARED].to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        on_gpu = self.device.type != "cpu" and self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision, enabled=on_gpu):
            found: Tensor = self._network(pixels)
        return found.float().cpu()

    def embed_images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch embed"]:
        """Encode square images in [-1, 1] on the encoder's device, with gradients to the images (not to weights).

        They are scaled by interpolation on the device instead of Pillow. Precision is the caller's autocast.
        """
        found: Tensor = self._network((images + 1) * 127.5)
        return found.float()
