"""What the training loop needs to train an autoregressive decoder of codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from models.autoencoders.model import VQAutoencoder
from models.decoders.base import Decoder
from models.decoders.vq_autoregressive.model import CodeTransformer, VQDecoder
from models.decoders.vq_autoregressive.spec import VQDecoderConfig
from models.noise import SeededNoise
from stages.formats.latents import Kind
from stages.train_decoder.captions import CaptionRows
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig
from stages.training.images.dataset import Indices
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart


class CodeLoss(nn.Module):
    """Gives the transformer's loss the form that the loop calls; the autoencoder takes no part in training."""

    def __init__(self, transformer: CodeTransformer) -> None:
        """Wrap the transformer."""
        super().__init__()
        self.transformer = transformer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of each sample's codes, and the share of them that were the likeliest."""
        random_inputs = {name: batch[name] for name in ("blur", "dropout")}
        codes = batch["codes"].flatten(1).long()
        return self.transformer.loss(codes, batch["embeddings"], text=batch.get("text"), **random_inputs)


@dataclass
class VQAutoregressiveTask(EncodedTask):
    """Trains an autoregressive decoder of codes."""

    reads: ClassVar[Kind] = "codes"

    config: VQAutoregressiveConfig

    def _decoder_config(self) -> VQDecoderConfig:
        return self.config.decoder(self.data.embed_dim, self.autoencoder_config)

    @cached_property
    def _texts(self) -> CaptionRows:
        return CaptionRows(self.inputs["embed_clip"], self.data.names, self.config.captions, where="condition")

    @property
    def _reads_text(self) -> bool:
        return self.config.condition != "image"

    def make_model(self) -> nn.Module:
        """Make the transformer, which knows the texts' mean and deviation where it reads texts."""
        transformer = CodeTransformer(self._decoder_config())
        if transformer.text is not None:
            mean, std = self._texts.statistics()
            transformer.text.set_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        return CodeLoss(transformer)

    def read(self, indices: Indices) -> Batch:
        """Read codes and embeddings, and texts' embeddings where they are a condition (NaN: no caption)."""
        batch = dict(super().read(indices))
        if self._reads_text:
            batch["text"] = torch.from_numpy(self._texts.read(indices))
        return batch

    def generate_samples(self, model: nn.Module, indices: Indices) -> Tensor:
        """Draw an image in [-1, 1] for the embeddings of each index."""
        if not self._reads_text:
            return super().generate_samples(model, indices)
        batch = {name: tensor.to(self.rank_info.device) for name, tensor in self.read(indices).items()}
        settings, seeds = self.config.samples, list(range(len(indices)))
        return self.decoder_of(model).sample_with_text(batch["embeddings"], batch["text"], seeds, settings)

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the transformer together with the first stage."""
        transformer = cast(CodeLoss, model).transformer
        return VQDecoder(transformer.config, transformer=transformer, autoencoder=cast(VQAutoencoder, self.autoencoder))

    def record(self) -> dict[str, Any]:
        """Return the decoder's configuration."""
        return self._decoder_config().to_dict()

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw what happens to the embeddings."""
        return {
            "blur": stream.draw((self.data.embed_dim,)),
            "dropout": torch.from_numpy(sample_uniform(self.config.seed, part, "dropout")).float(),
        }
