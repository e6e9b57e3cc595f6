"""What the training loop needs to train a pixel-diffusion decoder."""

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from models.decoders.base import Decoder
from models.decoders.pixel_diffusion.model import PixelDecoder
from models.noise import SeededNoise
from stages.train_decoder.pixel_diffusion.config import PixelDiffusionConfig
from stages.train_decoder.text_tuning import TextTunedTask
from stages.training.images.denoising import DenoisingLoss, denoiser_of, denoising_random_inputs
from stages.training.task import Batch, BatchPart


@dataclass
class PixelDiffusionTask(TextTunedTask):
    """Trains a pixel-diffusion decoder."""

    config: PixelDiffusionConfig

    def make_model(self) -> nn.Module:
        """Make the decoder."""
        return DenoisingLoss(PixelDecoder(self.config.decoder(self.data.embed_dim)))

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the decoder, which is its own denoiser."""
        return cast(PixelDecoder, denoiser_of(model))

    def record(self) -> dict[str, Any]:
        """Return the decoder's configuration."""
        return self.config.decoder(self.data.embed_dim).to_dict()

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw noise, times and what happens to the embeddings."""
        shape = (3, self.config.resolution, self.config.resolution)
        return denoising_random_inputs(part, stream, seed=self.config.seed, shape=shape, embed_dim=self.data.embed_dim)
