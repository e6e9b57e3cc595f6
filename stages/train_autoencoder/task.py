"""What the training loop needs to train an autoencoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.autoencoders.losses import AutoencoderLoss, GradientDistance, LossWeights, VggDistance
from models.autoencoders.model import KLAutoencoder, VQAutoencoder
from models.decoders.base import from_bytes, to_bytes
from models.noise import SeededNoise
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.formats.model_folders import save_model
from stages.formats.tensor_files import read_tensors
from stages.inference.autoencoder import AUTOENCODER
from stages.storage.artifact import Output
from stages.train_autoencoder.config import SlopesPerceptual, TrainKLConfig, TrainVQConfig
from stages.training.images.dataset import ImageDataset, Indices, downloaded_images
from stages.training.images.image_task import ImageTask, stacked_rows
from stages.training.initial_weights import load_initial
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart


@dataclass
class AutoencoderTask(ImageTask):
    """Trains an autoencoder on all images but the held-out ones; those that cannot be decoded are left out."""

    skips_unreadable = True

    config: TrainKLConfig | TrainVQConfig

    def open_data(self) -> ImageDataset:
        """Open all images."""
        shards = self.inputs["download_shards"]
        return ImageDataset(
            shards,
            downloaded_images(shards),
            resolution=self.config.resolution,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
            threads=torch.get_num_threads(),
        )

    @property
    def num_held_out(self) -> int:
        """How many images are held out at most."""
        return self.config.held_out_images

    def build_model(self) -> nn.Module:
        """Make the autoencoder and what it is trained by."""
        config = self.config
        autoencoder: KLAutoencoder | VQAutoencoder = config.spec.build()
        if isinstance(autoencoder, VQAutoencoder):
            autoencoder.codebook.workers = ProcessGroup(self.rank_info.world_size)
        load_initial(autoencoder, config, clips=None)
        if config.gradient_checkpointing:
            autoencoder.recompute_in_backward()
        return AutoencoderLoss(
            autoencoder,
            self._weights(),
            perceptual=self._perceptual(),
            discriminator=config.adversary.build() if config.adversary else None,
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
            return VggDistance(read_tensors(perceptual.path))
        except (ValueError, RuntimeError) as error:
            raise InputFault(
                f"train_autoencoder.perceptual.path: {perceptual.path} cannot be used ({str(error).splitlines()[0]}): "
                "give torchvision's vgg16 weights, or choose kind: slopes, which needs none"
            ) from error

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Read the images, and add the random numbers of the part."""
        stream = SeededNoise(sample_seeds(self.config.seed, part))
        batch = {"images": torch.from_numpy(self.data.squares(indices)), "step": torch.full((len(indices),), part.step)}
        if isinstance(self.config, TrainKLConfig):
            return batch | {"noise": stream.normal(self.config.spec.latent_shape)}
        return batch | {"positions": stream.uniform((1,))[:, 0]}

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Return the held-out losses, PSNR and codes used, and images above their reconstructions."""
        loss = cast(AutoencoderLoss, model)
        values, codes, errors = [], [], []
        for batch in self.held_out_batches(step=step):
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
        pixels = self.data.squares(self.held_out[: self.config.grid_images])
        images = from_bytes(torch.from_numpy(pixels).to(self.rank_info.device))
        generated: Tensor = model.autoencoder.decode(model.autoencoder.encode(images)).float().clamp(-1, 1)
        return stacked_rows(pixels, to_bytes(generated.cpu()).numpy())

    def examine(self, model: nn.Module, step: int) -> None:
        """Find nothing: no file beside the weights depends on them."""

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the autoencoder's folder: config.json and model.safetensors; the discriminator stays behind."""
        self.split_record.write(output)
        spec = self.config.spec
        record = {"kind": spec.kind, "model": spec.to_dict()}
        save_model(output, AUTOENCODER, cast(AutoencoderLoss, model).autoencoder, record)


class ProcessGroup:
    """Sums over the training processes, for the codebook that they share; a group of one returns its own values."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of every process's values."""
        if self._world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def joined(self, rows: Tensor) -> Tensor:
        """Return every process's rows, one below the other in the order of ranks."""
        if self._world_size == 1:
            return rows
        whole = rows.new_empty((self._world_size * len(rows), *rows.shape[1:]))
        torch.distributed.all_gather_into_tensor(whole, rows)
        return whole
