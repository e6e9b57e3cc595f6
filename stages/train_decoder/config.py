"""Which kind of decoder to train; each kind's own settings are in its folder."""

from stages.train_decoder.pixel_diffusion.config import PixelDiffusionConfig

TrainDecoderConfig = PixelDiffusionConfig  # a union on `kind`, Annotated[A | B, Field(discriminator="kind")]
