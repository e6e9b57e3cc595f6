"""What the training loop needs to train a latent-diffusion decoder."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from torch import nn

from models.decoders.base import Decoder
from models.decoders.latent_diffusion.model import LatentDecoder, LatentDenoiser
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec
from models.decoders.training import denoiser_of
from stages.contract.errors import InputFault
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.train_decoder.text_tuning import TextTunedTask


@dataclass
class LatentDiffusionTask(TextTunedTask, EncodedTask):
    """Trains a latent-diffusion decoder."""

    config: LatentDiffusionConfig

    @cached_property
    def spec(self) -> LatentDiffusionSpec:
        """The decoder's spec."""
        found = self.identity
        try:
            return self.config.spec(
                self.data.embed_dim, self.autoencoder.spec, scale_factor=found.scale_factor, shift=found.shift
            )
        except ValueError as error:
            raise InputFault(
                f"train_decoder: {error}; the latents are {list(found.shape)}: change train_decoder.network or "
                "train_decoder.conditioning"
            ) from error

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the denoiser together with the first stage."""
        denoiser = cast(LatentDenoiser, denoiser_of(model))
        return LatentDecoder(denoiser.spec, denoiser=denoiser, autoencoder=self.autoencoder)
