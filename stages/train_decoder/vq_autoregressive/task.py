"""What the training loop needs to train an autoregressive decoder of codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from models.autoencoders.model import VQAutoencoder
from models.decoders.base import Decoder
from models.decoders.vq_autoregressive.model import CodeLoss, VQDecoder
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from stages.contract.sizing import Shapes
from stages.formats.latents import Kind
from stages.train_decoder.captions import CaptionRows
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig
from stages.training.images.dataset import Indices
from stages.training.task import Batch


@dataclass
class VQAutoregressiveTask(EncodedTask):
    """Trains an autoregressive decoder of codes."""

    reads: ClassVar[Kind] = "codes"

    config: VQAutoregressiveConfig

    @cached_property
    def spec(self) -> VQAutoregressiveSpec:
        """The decoder's spec."""
        return self.config.spec(self.data.embed_dim, self.autoencoder.spec)

    @classmethod
    def planned_module(cls, config: VQAutoregressiveConfig, shapes: Shapes) -> nn.Module:
        """Return what would be trained."""
        module: nn.Module = config.spec(shapes.embed_dim, shapes.autoencoder).build_training()
        return module

    @cached_property
    def _texts(self) -> CaptionRows:
        return CaptionRows(self.inputs["embed_clip"], self.data.names, self.config.captions, where="condition")

    @property
    def _reads_text(self) -> bool:
        return self.config.condition != "image"

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
        if self._reads_text:
            batch["text"] = torch.from_numpy(self._texts.read(indices))
        return batch

    def generate_samples(self, model: nn.Module, indices: Indices) -> Tensor:
        """Generate an image in [-1, 1] for the embeddings of each index."""
        if not self._reads_text:
            return super().generate_samples(model, indices)
        batch = {name: tensor.to(self.rank_info.device) for name, tensor in self.read(indices).items()}
        settings, seeds = self.config.samples, list(range(len(indices)))
        return self.decoder_of(model).sample(batch["embeddings"], seeds, settings, batch["text"])

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the transformer together with the first stage."""
        transformer = cast(CodeLoss, model).transformer
        return VQDecoder(transformer.spec, transformer=transformer, autoencoder=cast(VQAutoencoder, self.autoencoder))
