"""What the training loop needs to train StyleGAN2: both networks under one loss, and CLIP beside them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, from_bytes
from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.augmentation import NUM_RANDOM_INPUTS
from models.decoders.stylegan2.spec import StyleGan2Spec
from models.noise import SeededNoise
from stages.contract.sizing import Shapes
from stages.encoders.config import local_clips
from stages.encoders.space import Encoders, make_encoders
from stages.formats.clips import read_clips, require_same_clips
from stages.train_decoder.stylegan2.config import StyleGan2DecoderConfig
from stages.training.images.task import DecoderTask
from stages.training.task import Batch, BatchPart
from stages.training.whole_batch import whole_batch_of


class AdversaryLoss(nn.Module):
    """Gives the two networks' loss the form that the loop calls."""

    def __init__(self, adversary: Adversary) -> None:
        super().__init__()
        self.adversary = adversary

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each sample and its parts."""
        losses: dict[str, Tensor] = self.adversary({**batch, "images": from_bytes(batch["images"])})
        return losses


@dataclass
class StyleGan2Task(DecoderTask):
    """Trains a StyleGAN2 decoder.

    The std among images that the discriminator sees is of the samples of one worker, so here the number of workers is
    part of the result; everything else is the same for any number of them.
    """

    config: StyleGan2DecoderConfig

    def make_model(self) -> nn.Module:
        """Make both networks; the encoders stay outside, so that it is neither trained nor averaged nor saved."""
        config, embed_dim = self.config, self.data.embed_dim
        generator = self.spec.build()
        discriminator = config.discriminator_spec(embed_dim).build()
        generator.synthesis.gradient_checkpointing = config.gradient_checkpointing
        discriminator.gradient_checkpointing = config.gradient_checkpointing
        adversary = Adversary(
            generator,
            discriminator,
            config.losses,
            embed_images=self._encoders.images.embed_images if config.losses.clip_weight > 0 else None,
            blocks=read_clips(self.inputs["embed_clip"]).block_dims,
            group_mean=group_mean,
            num_workers=self.rank_info.world_size,
            whole_batch=whole_batch_of(self.rank_info),
        )
        self._noise_size = generator.noise_size
        return AdversaryLoss(adversary)

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the generator."""
        generator: Decoder = model.adversary.generator  # type: ignore[assignment, union-attr]
        return generator

    @cached_property
    def spec(self) -> StyleGan2Spec:
        """The generator's spec."""
        return self.config.spec(self.data.embed_dim)

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of."""
        return super().loss_settings() | {"weights": self.config.losses.to_dict()}

    @classmethod
    def planned_module(cls, config: StyleGan2DecoderConfig, shapes: Shapes) -> nn.Module:
        """Return what would be trained."""
        width = shapes.embed_dim
        return nn.ModuleList([config.spec(width).build(), config.discriminator_spec(width).build()])

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Return what both networks need; what a setting leaves out is not generated."""
        config, losses, side = self.config, self.config.losses, self.config.resolution
        batch = {
            "step": torch.full((part.count,), part.step),
            "latent": stream.normal((config.generator.latent_dim,)),
            "noise": stream.normal((self._noise_size,)),
        }
        if losses.embedding_noise > 0:
            batch["pseudo_text"] = stream.normal((self.data.embed_dim,))
        if losses.augmentation != "none":
            batch["augmentation"] = stream.uniform((2, NUM_RANDOM_INPUTS))
        if losses.path_weight > 0:
            batch["path"] = stream.normal((3, side, side))
        return batch

    @cached_property
    def _encoders(self) -> Encoders:
        """The frozen encoders, loaded once however many models are made."""
        encoders = make_encoders(local_clips(self.config.clip, self.inputs), device=self.rank_info.device)
        remedy = "leave train_decoder.clip out, so that the experiment's own holds"
        require_same_clips("train_decoder.clip", encoders.identities, read_clips(self.inputs["embed_clip"]), remedy)
        return encoders


def group_mean(value: Tensor) -> Tensor:
    """Return the mean over all workers of the training group."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
