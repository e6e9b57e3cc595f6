"""What the training loop needs to train an autoregressive decoder of codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn

from models.autoencoders.model import VQAutoencoder
from models.decoders.base import Decoder
from models.decoders.vq_autoregressive.model import CodeLoss, VQDecoder
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from stages.formats.latents import Kind
from stages.train_decoder.captions import CaptionRows
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig
from stages.training.images.dataset import Indices
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart


@dataclass
class VQAutoregressiveTask(EncodedTask):
    """Trains an autoregressive decoder of codes."""

    reads: ClassVar[Kind] = "codes"

    config: VQAutoregressiveConfig

    @cached_property
    def spec(self) -> VQAutoregressiveSpec:
        """The decoder's spec."""
        return self.config.spec(self.data.embed_dim, self.autoencoder.spec)

    @cached_property
    def _texts(self) -> CaptionRows:
        return CaptionRows(self.inputs["embed_clip"], self.data.names, self.config.captions, where="condition")

    def make_model(self) -> nn.Module:
        """Return the transformer under its loss; it knows the texts' mean and std where it reads texts."""
        model: CodeLoss = self.spec.build_training()
        transformer = model.transformer
        if transformer.text is not None:
            mean, std = self._texts.statistics()
            transformer.text.set_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        return model

    def read(self, indices: Indices) -> Batch:
        """Read codes and embeddings, and texts' embeddings where they are a condition (NaN: no caption)."""
        batch = dict(super().read(indices))
        if (texts := self.texts_of(indices)) is not None:
            batch["text"] = torch.from_numpy(texts)
        return batch

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Join what is read with random numbers; the texts are those that the mix of captions chooses."""
        batch = dict(super().batch(indices, part))
        if "text" in batch:
            choice = sample_uniform(self.config.seed, part, "which_caption")
            batch["text"] = torch.from_numpy(self._texts.choose(indices, choice))
        return batch

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of; where texts are a condition, also which are read."""
        read = {} if self.config.condition == "image" else {"captions": self.config.captions.identity()}
        return super().loss_settings() | read

    def texts_of(self, indices: Indices) -> np.ndarray | None:
        """Return the embeddings of the human captions, where they are a condition (NaN: none)."""
        return None if self.config.condition == "image" else self._texts.read(indices)

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the transformer together with the first stage."""
        transformer = cast(CodeLoss, model).transformer
        return VQDecoder(transformer.spec, transformer=transformer, autoencoder=cast(VQAutoencoder, self.autoencoder))
