"""What the training loop needs to train an autoregressive decoder of codes."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from models.decoders.autoencoder import VQAutoencoder
from models.decoders.base import Decoder
from models.decoders.vq_autoregressive import CodeTransformer, VQDecoder
from models.decoders.vq_config import VQDecoderConfig
from models.noise import SeededNoise
from stages.latents import Kind
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig
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
        draws = {name: batch[name] for name in ("blur", "dropout")}
        return self.transformer.loss(batch["codes"].flatten(1).long(), batch["embeddings"], **draws)


@dataclass
class VQAutoregressiveTask(EncodedTask):
    """Trains an autoregressive decoder of codes."""

    reads: ClassVar[Kind] = "codes"

    config: VQAutoregressiveConfig

    def _decoder_config(self) -> VQDecoderConfig:
        return self.config.decoder(self.data.embed_dim, self.autoencoder_config)

    def make_model(self) -> nn.Module:
        """Make the transformer."""
        return CodeLoss(CodeTransformer(self._decoder_config()))

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the transformer together with the first stage."""
        transformer = cast(CodeLoss, model).transformer
        return VQDecoder(transformer.config, transformer=transformer, autoencoder=cast(VQAutoencoder, self.autoencoder))

    def record(self) -> dict[str, Any]:
        """Return the decoder's configuration."""
        return self._decoder_config().to_dict()

    def draws(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw what happens to the embeddings."""
        return {
            "blur": stream.draw((self.data.embed_dim,)),
            "dropout": torch.from_numpy(sample_uniform(self.config.seed, part, "dropout")).float(),
        }
