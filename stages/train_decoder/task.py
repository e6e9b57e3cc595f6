"""What the training loop needs to train a decoder whose spec says everything, on images and embeddings."""

from dataclasses import dataclass
from functools import cached_property

from models.decoders.spec import DecoderSpec
from stages.train_decoder.image_config import ImageDecoderConfig
from stages.train_decoder.text_tuning import TextTunedTask


@dataclass
class ImageDecoderTask(TextTunedTask):
    """Trains such a decoder."""

    config: ImageDecoderConfig

    @cached_property
    def spec(self) -> DecoderSpec:
        """The decoder's spec."""
        return self.config.spec(self.data.embed_dim)
