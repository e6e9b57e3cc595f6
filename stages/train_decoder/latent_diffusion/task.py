"""What the training loop needs to train a latent-diffusion decoder."""

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from models.decoders.base import Decoder
from models.decoders.latent_diffusion.model import LatentDecoder, LatentDenoiser
from models.decoders.latent_diffusion.spec import LatentDecoderConfig
from models.noise import SeededNoise
from stages.contract.errors import InputFault
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.train_decoder.text_tuning import TextTunedTask
from stages.training.images.denoising import DenoisingLoss, denoiser_of, denoising_random_inputs
from stages.training.task import Batch, BatchPart


@dataclass
class LatentDiffusionTask(TextTunedTask, EncodedTask):
    """Trains a latent-diffusion decoder."""

    config: LatentDiffusionConfig

    def _decoder_config(self) -> LatentDecoderConfig:
        """Return the decoder's own configuration.

        Raises:
            InputFault: the network does not fit the latents.
        """
        found = self.identity
        try:
            return self.config.decoder(
                self.data.embed_dim, self.autoencoder_config, scale_factor=found.scale_factor, shift=found.shift
            )
        except ValueError as error:
            raise InputFault(
                f"train_decoder: {error}; the latents are {list(found.shape)}: change train_decoder.network or "
                "train_decoder.conditioning"
            ) from error

    def make_model(self) -> nn.Module:
        """Make the denoiser."""
        return DenoisingLoss(LatentDenoiser(self._decoder_config()))

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the denoiser together with the first stage."""
        denoiser = cast(LatentDenoiser, denoiser_of(model))
        return LatentDecoder(denoiser.config, denoiser=denoiser, autoencoder=self.autoencoder)

    def record(self) -> dict[str, Any]:
        """Return the decoder's configuration."""
        return self._decoder_config().to_dict()

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw noise, times and what happens to the embeddings."""
        return denoising_random_inputs(
            part, stream, seed=self.config.seed, shape=self.identity.shape, embed_dim=self.data.embed_dim
        )
