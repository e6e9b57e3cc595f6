"""What the training loop needs to train a pixel-diffusion decoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.decoders.base import from_bytes
from models.decoders.pixel_diffusion import PixelDecoder
from models.noise import SeededNoise
from stages.decoder_training.task import DecoderTask
from stages.train_decoder.pixel_diffusion.config import PixelDiffusionConfig
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart


class PixelDecoderLoss(nn.Module):
    """Gives the decoder's loss the form that the loop calls."""

    def __init__(self, decoder: PixelDecoder) -> None:
        """Wrap the decoder."""
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the denoising loss of each sample."""
        draws = {name: batch[name] for name in ("noise", "time", "blur", "dropout")}
        return {"loss": self.decoder.loss(from_bytes(batch["images"]), batch["embeddings"], **draws)}


@dataclass
class PixelDiffusionTask(DecoderTask):
    """Trains a pixel-diffusion decoder."""

    config: PixelDiffusionConfig

    def make_model(self) -> nn.Module:
        """Make the decoder."""
        return PixelDecoderLoss(PixelDecoder(self.config.decoder(self.data.embed_dim)))

    def record(self) -> dict[str, Any]:
        """Return the decoder's configuration."""
        return self.config.decoder(self.data.embed_dim).to_dict()

    def draws(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw noise, times and what happens to the embeddings."""
        seed, side = self.config.seed, self.config.resolution
        return {
            "noise": stream.draw((3, side, side)),
            "blur": stream.draw((self.data.embed_dim,)),
            "time": torch.from_numpy(sample_uniform(seed, part, "times")).float(),
            "dropout": torch.from_numpy(sample_uniform(seed, part, "dropout")).float(),
        }
