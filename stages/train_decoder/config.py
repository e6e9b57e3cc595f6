"""Which kind of decoder to train; each kind's own settings are in its folder."""

from typing import Annotated

from pydantic import Field

from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.train_decoder.pixel_diffusion.config import PixelDiffusionConfig
from stages.train_decoder.stable_diffusion.config import StableDiffusionConfig
from stages.train_decoder.stylegan2.config import StyleGan2DecoderConfig
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig

TrainDecoderConfig = Annotated[
    PixelDiffusionConfig
    | LatentDiffusionConfig
    | StableDiffusionConfig
    | StyleGan2DecoderConfig
    | VQAutoregressiveConfig,
    Field(discriminator="kind"),
]
