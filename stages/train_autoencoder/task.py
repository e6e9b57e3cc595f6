"""What the training loop needs to train an autoencoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from models.autoencoders.losses import (
    AutoencoderLoss,
    GradientDistance,
    LossWeights,
    PatchDiscriminator,
    VggDistance,
)
from models.autoencoders.model import VQAutoencoder, make_autoencoder
from models.decoders.base import from_bytes, to_bytes
from models.noise import SeededNoise
from stages.contract.causes import FailureCause
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.formats.image_grids import to_png
from stages.formats.model_folders import save_model
from stages.formats.shards import ShardRecord
from stages.inference.autoencoder import AUTOENCODER
from stages.storage.artifact import Artifact, Output
from stages.train_autoencoder.config import SlopesPerceptual, TrainKLConfig, TrainVQConfig
from stages.train_autoencoder.weights import read_weights
from stages.train_autoencoder.workers import TrainingWorkers
from stages.training.images.shard_images import ImageRows, ShardImages
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart, RankInfo

VALIDATION_BATCH = 64
Indices = Int[np.ndarray, "rows 2"]


@dataclass
class AutoencoderTask:
    """Trains on all images but the first few, which are held out."""

    config: TrainKLConfig | TrainVQConfig
    shards: Artifact
    rank_info: RankInfo = field(default_factory=lambda: RankInfo(0, 1, torch.device("cpu")))
    left_out: dict[str, FailureCause] = field(default_factory=dict, init=False)

    def setup(self, rank_info: RankInfo) -> None:
        """Open the shards and fix the order of samples.

        Raises:
            InputFault: the images are smaller than they are to be trained on.
        """
        self.rank_info = rank_info
        images = {name: record.images for name, record in sorted(ShardRecord.done(self.shards).items())}
        self._names = [name for name, count in images.items() if count]
        sizes = np.array([images[name] for name in self._names], dtype=np.int64)
        cache_bytes = int(self.config.cache_gigabytes * 1e9)
        self._images = ShardImages(
            self.shards,
            resolution=self.config.resolution,
            cache_bytes=cache_bytes,
            threads=torch.get_num_threads(),
        )
        num_held = max(1, min(self.config.held_out_images, int(sizes.sum()) // 10))
        self._first_row = np.clip(num_held - (np.cumsum(sizes) - sizes), 0, sizes)  # of the first shards
        held = [np.stack([np.full(count, shard), np.arange(count)], 1) for shard, count in enumerate(self._first_row)]
        window = max(1, cache_bytes // 2 // self._images.image_bytes)
        self._order = SampleOrder((sizes - self._first_row).tolist(), window, self.config.seed)
        self._held_out: Indices = np.concatenate(held)
        self._images.require_resolution(self._names[0], "train_autoencoder.resolution")

    def build_model(self) -> nn.Module:
        """Make the autoencoder and what it is trained by."""
        config = self.config
        autoencoder = make_autoencoder(config.model(), TrainingWorkers(self.rank_info.world_size))
        if config.gradient_checkpointing:
            autoencoder.recompute_in_backward()
        adversary = config.adversary
        return AutoencoderLoss(
            autoencoder,
            self._weights(),
            perceptual=self._perceptual(),
            discriminator=PatchDiscriminator(adversary.width, adversary.num_layers) if adversary else None,
        )

    def _weights(self) -> LossWeights:
        config = self.config
        return LossWeights(
            absolute=config.absolute_weight,
            square=config.square_weight,
            perceptual=config.perceptual.weight if config.perceptual else 0.0,
            kl=config.kl_weight if isinstance(config, TrainKLConfig) else 0.0,
            commitment=config.commitment_weight if isinstance(config, TrainVQConfig) else 0.0,
            adversarial=config.adversary.weight if config.adversary else 0.0,
            adversarial_start=config.adversary.start_step if config.adversary else 0,
        )

    def _perceptual(self) -> nn.Module | None:
        perceptual = self.config.perceptual
        if perceptual is None:
            return None
        if isinstance(perceptual, SlopesPerceptual):
            return GradientDistance(perceptual.num_scales)
        try:
            return VggDistance(read_weights(perceptual.path))
        except (ValueError, RuntimeError) as error:
            raise InputFault(
                f"train_autoencoder.perceptual.path: {perceptual.path} cannot be used ({str(error).splitlines()[0]}): "
                "give torchvision's vgg16 weights, or choose kind: slopes, which needs none"
            ) from error

    def prepare(self, part: BatchPart) -> Batch:
        """Read the part's images, and draw their random numbers."""
        indices = self._order.at(part.positions)
        indices[:, 1] += self._first_row[indices[:, 0]]
        return self._batch(indices, part)

    def _batch(self, indices: Indices, part: BatchPart) -> Batch:
        stream = SeededNoise(sample_seeds(self.config.seed, part))
        batch = {
            "images": torch.from_numpy(self._read(indices)),
            "step": torch.full((len(indices),), part.step),
        }
        if isinstance(self.config, TrainKLConfig):
            return batch | {"noise": stream.draw(self.config.model().latent_shape)}
        return batch | {"places": stream.uniform((1,))[:, 0]}

    def _read(self, indices: Indices) -> ImageRows:
        """Return the images; where one cannot be decoded, the next of its shard that can takes its place.

        encode_latents counts those that cannot.

        Raises:
            InputFault: none of a shard can be decoded.
        """
        named = [(self._names[shard], int(row)) for shard, row in indices]
        try:
            return self._images.read([(name, self._key(name, row)) for name, row in named])
        except InputFault:
            return np.concatenate([self._readable(name, row) for name, row in named])

    def _readable(self, name: str, row: int) -> ImageRows:
        count = len(self._images.keys(name))
        for step in range(count):
            try:
                return self._images.read([(name, self._key(name, row + step))])
            except InputFault:
                if step == count - 1:
                    raise
        raise InputFault(f"train_autoencoder: shard {name} holds no images: run download_shards anew")

    def _key(self, name: str, row: int) -> str:
        keys = self._images.keys(name)
        return keys[row % len(keys)]

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Return the held-out losses, PSNR and codes used, and images above their reconstructions."""
        loss = cast(AutoencoderLoss, model)
        values, codes, errors = [], [], []
        for start in range(0, len(self._held_out), VALIDATION_BATCH):
            indices = self._held_out[start : start + VALIDATION_BATCH]
            batch = self._batch(indices, BatchPart(step, start, len(indices), len(self._held_out)))
            batch = {name: tensor.to(self.rank_info.device) for name, tensor in batch.items()}
            values.append({name: value.float().cpu() for name, value in loss(batch).items()})
            images = from_bytes(batch["images"])
            generated = loss.autoencoder.decode(loss.autoencoder.encode(images)).float().clamp(-1, 1)
            errors.append((generated - images).square().mean((1, 2, 3)).cpu())
            if isinstance(loss.autoencoder, VQAutoencoder):
                codes.append(loss.autoencoder.encode_codes(images).flatten().cpu())
        metrics = {f"held_out_{name}": float(torch.cat([v[name] for v in values]).mean()) for name in values[0]}
        metrics["held_out_psnr"] = 10 * math.log10(4 / max(float(torch.cat(errors).mean()), 1e-12))
        if codes:
            metrics["held_out_codes_used"] = float(len(torch.bincount(torch.cat(codes)).nonzero()))
        return [Metrics(metrics, step), LoggedImage("reconstructions", self._grid(loss), step)]

    def _grid(self, model: AutoencoderLoss) -> bytes:
        """Return a PNG of held-out images above what the autoencoder makes of them."""
        pixels = self._read(self._held_out[: self.config.grid_images])
        images = from_bytes(torch.from_numpy(pixels).to(self.rank_info.device))
        generated: Tensor = model.autoencoder.decode(model.autoencoder.encode(images)).float().clamp(-1, 1)
        rows = [np.concatenate(list(row), axis=1) for row in (pixels, to_bytes(generated.cpu()).numpy())]
        return to_png(Image.fromarray(np.concatenate(rows)))

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the autoencoder's folder: config.json and model.safetensors; the discriminator stays behind."""
        config = self.config.model()
        record = {"kind": config.kind, "model": config.to_dict()}
        save_model(output, AUTOENCODER, cast(AutoencoderLoss, model).autoencoder, record)
