"""What the training loop needs to train a pixel-diffusion decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from models.decoders.pixel_diffusion import PixelDecoder
from models.noise import SeededNoise
from stages.artifacts import Artifact, Output
from stages.embeddings import clip_identity
from stages.events import Event, Metrics, Picture
from stages.model_files import save_model
from stages.pictures import to_png
from stages.train_decoder.config import PixelDiffusionConfig
from stages.train_decoder.data import DecoderData
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds, sample_uniform
from stages.training.task import Batch, BatchPart, Place

FOLDER = "decoder"
_VALIDATION_BATCH = 64


class DecoderLoss(nn.Module):
    """Gives the decoder's loss the form that the loop calls."""

    def __init__(self, decoder: PixelDecoder) -> None:
        """Wrap the decoder."""
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the denoising loss of each sample."""
        images = batch["images"].permute(0, 3, 1, 2).float() / 127.5 - 1
        loss = self.decoder.loss(
            images,
            batch["embeddings"],
            noise=batch["noise"],
            time=batch["time"],
            blur=batch["blur"],
            dropout=batch["dropout"],
        )
        return {"loss": loss}


@dataclass
class PixelDiffusionTask:
    """Trains on all images but the first few, which are held out."""

    config: PixelDiffusionConfig
    shards: Artifact
    embeddings: Artifact
    _device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def setup(self, place: Place) -> None:
        """Open the data and fix the order of samples."""
        self._device = place.device
        self._data = DecoderData(
            self.shards,
            self.embeddings,
            resolution=self.config.resolution,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
        )
        sizes = np.array(self._data.sizes)
        num_held = max(1, min(self.config.held_out_images, int(sizes.sum()) // 10))
        held = np.clip(num_held - (np.cumsum(sizes) - sizes), 0, sizes)  # the first rows of the first shards
        self._first_row = held
        places = [np.stack([np.full(count, shard), np.arange(count)], 1) for shard, count in enumerate(held)]
        self._held_out: Int[np.ndarray, "held 2"] = np.concatenate(places)
        self._order = SampleOrder((sizes - held).tolist(), self._data.window_size, self.config.seed)

    def build_model(self) -> nn.Module:
        """Make the decoder, knowing the embeddings' mean and deviation."""
        decoder = PixelDecoder(self.config.decoder(self._data.embed_dim))
        mean, std = self._statistics
        decoder.set_embedding_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        return DecoderLoss(decoder)

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return self._data.statistics()

    def prepare(self, part: BatchPart) -> Batch:
        """Read the part's images and embeddings; draw their noise, times and what happens to the embeddings."""
        places = self._order.at(part.positions)
        places[:, 1] += self._first_row[places[:, 0]]
        return self._batch(places, part)

    def _batch(self, places: Int[np.ndarray, "rows 2"], part: BatchPart) -> Batch:
        images, embeddings = self._data.rows(places)
        seed, side = self.config.seed, self.config.resolution
        stream = SeededNoise(sample_seeds(seed, part))
        return {
            "images": torch.from_numpy(images),
            "embeddings": torch.from_numpy(embeddings),
            "noise": stream.draw((3, side, side)),
            "blur": stream.draw((self._data.embed_dim,)),
            "time": torch.from_numpy(sample_uniform(seed, part, "times")).float(),
            "dropout": torch.from_numpy(sample_uniform(seed, part, "dropout")).float(),
        }

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Return the held-out loss, and pictures drawn from held-out embeddings below the true ones."""
        losses = [self._held_out_loss(model, start) for start in range(0, len(self._held_out), _VALIDATION_BATCH)]
        grid = Picture("samples", self._sample_grid(model), step)
        return [Metrics({"held_out_loss": float(torch.cat(losses).mean())}, step), grid]

    def _held_out_loss(self, model: nn.Module, start: int) -> Tensor:
        places = self._held_out[start : start + _VALIDATION_BATCH]
        batch = self._batch(places, BatchPart(0, start, len(places), len(self._held_out)))
        losses: Tensor = model({name: tensor.to(self._device) for name, tensor in batch.items()})["loss"]
        return losses

    def _sample_grid(self, model: nn.Module) -> bytes:
        settings = self.config.samples
        images, embeddings = self._data.rows(self._held_out[: settings.num_images])
        drawn: Tensor = model.decoder.sample(  # type: ignore[operator, union-attr]
            torch.from_numpy(embeddings).to(self._device),
            list(range(len(embeddings))),
            num_steps=settings.num_steps,
            guidance_scale=settings.guidance_scale,
        )
        pictures = ((drawn.float().cpu() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        rows = [np.concatenate(list(row), axis=1) for row in (images, pictures)]
        return to_png(Image.fromarray(np.concatenate(rows)))

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the decoder's folder: config.json and model.safetensors."""
        config: dict[str, Any] = self.config.decoder(self._data.embed_dim).to_dict()
        record = {
            "kind": self.config.kind,
            "model": config,
            "clip": clip_identity(self.embeddings),
            "sampling": {
                "num_steps": self.config.samples.num_steps,
                "guidance_scale": self.config.samples.guidance_scale,
            },
        }
        save_model(output, FOLDER, model.decoder, record)  # type: ignore[arg-type]
