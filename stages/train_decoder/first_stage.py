"""What the kinds share that are trained on encoded images: latents or codes in place of pixels."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from models.autoencoders.model import KLAutoencoder, VQAutoencoder
from models.decoders.base import to_bytes
from models.decoders.buckets import BucketSettings
from stages.contract.errors import InputFault
from stages.contract.sizing import Shapes
from stages.formats.latents import Kind, LatentRows, LatentsIdentity, read_buckets
from stages.inference.autoencoder import load_autoencoder
from stages.train_decoder.base_config import DecoderConfig
from stages.training.images.bucketed import NumbersOf
from stages.training.images.dataset import Indices
from stages.training.images.shard_images import ImageRows
from stages.training.images.task import DecoderTask
from stages.training.task import Batch, RankInfo


@dataclass
class EncodedTask(DecoderTask):
    """Reads embeddings and encoded images by key, and no image at all.

    The sample grid shows what the autoencoder makes of the true latents above the generated images.
    """

    reads: ClassVar[Kind] = "latents"
    config: DecoderConfig

    @classmethod
    def planned_module(cls, config: Any, shapes: Shapes) -> nn.Module:
        """Return what would be trained."""
        module: nn.Module = config.spec(shapes.embed_dim, shapes.autoencoder).build_training()
        return module

    @cached_property
    def identity(self) -> LatentsIdentity:
        """Return what the latents are."""
        return LatentsIdentity.of(self.inputs["encode_latents"])

    @cached_property
    def rows(self) -> LatentRows:
        """Return the encoded images."""
        return LatentRows(self.inputs["encode_latents"], self.reads)

    @cached_property
    def autoencoder(self) -> KLAutoencoder | VQAutoencoder:
        """Return the frozen first stage, which becomes a part of the saved decoder."""
        return load_autoencoder(self.inputs["train_autoencoder"]).to(self.rank_info.device)

    def check_data(self) -> None:
        """Check that the latents are of this autoencoder, at the configured resolution."""
        found, made = self.identity, self.autoencoder.spec
        if found.kind != "autoencoder" or found.shape != made.latent_shape:
            raise InputFault(
                f"train_decoder: kind {self.config.kind} found latents {list(found.shape)} of kind "
                f"{found.kind}: expected {list(made.latent_shape)} of kind autoencoder, which train_autoencoder makes: "
                "set encode_latents.kind to autoencoder"
            )
        if made.resolution != self.config.resolution:
            raise InputFault(
                f"train_decoder.resolution: found {self.config.resolution}: expected the autoencoder's, "
                f"{made.resolution}: set both to the same"
            )
        if self.reads == "codes" and found.num_codes is None:
            raise InputFault(
                "train_decoder: kind vq_autoregressive found latents without codes: expected those of an autoencoder "
                "with a codebook: set train_autoencoder.kind to vq"
            )

    def numbers_of(self) -> NumbersOf:
        """Return the buckets in which the images were encoded."""
        return partial(read_buckets, self.inputs["encode_latents"])

    def require_buckets(self) -> None:
        """Check that the latents are of the configured buckets."""
        wanted = None if self.config.buckets is None else self.config.buckets.shared()
        if self.identity.buckets != wanted:
            raise InputFault(
                f"train_decoder.buckets: found {_named(wanted)}, and latents of {_named(self.identity.buckets)}: "
                "expected the same: set encode_latents.buckets as here"
            )

    def read(self, indices: Indices) -> Batch:
        """Read the encoded images and the embeddings [count, embed]."""
        return {
            self.reads: torch.from_numpy(self._encoded(indices)),
            "embeddings": torch.from_numpy(self.data.embeddings(indices)),
        }

    def true_images(self, indices: Indices) -> ImageRows:
        """Return what the autoencoder makes of the true latents."""
        encoded = torch.from_numpy(self._encoded(indices)).to(self.rank_info.device)
        first = self.autoencoder
        if self.reads == "codes" and isinstance(first, VQAutoencoder):
            generated = first.decode_codes(encoded.long())
        else:
            generated = first.decode(encoded.float())
        return to_bytes(generated.cpu()).numpy()

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of: the latents of another encoder are other numbers."""
        return super().loss_settings() | {"first_stage": self.identity.encoder.digest}

    def setup(self, rank_info: RankInfo) -> None:
        """Open the data, of latents of these buckets."""
        self.require_buckets()
        super().setup(rank_info)

    def _encoded(self, indices: Indices) -> np.ndarray:
        keys = self.data.keys(indices)
        named = [(self.data.names[shard], key) for (shard, _), key in zip(indices.tolist(), keys, strict=True)]
        return self.rows.read(named)


def _named(buckets: BucketSettings | None) -> str:
    return "squares" if buckets is None else f"step {buckets.step} and max_aspect_ratio {buckets.max_aspect_ratio}"
