"""What decoders of latents share: a denoiser, and the autoencoder that the latents are of.

Symbols: x_0 = latents as they are diffused, of about unit variance: [batch, channel, row, column].
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text
from models.decoders.denoiser import Denoiser
from models.decoders.sampling import DecoderSampling

Latents = Float[Tensor, "batch channel row column"]


class FirstStageDecoder(Decoder):
    """A denoiser of latents with their autoencoder; a kind says how images and x_0 become each other."""

    can_edit = True
    denoiser: Denoiser

    def encoded(self, images: Images) -> Latents:
        """Return x_0 of images in [-1, 1]."""
        raise NotImplementedError

    def decoded(self, x_0: Latents) -> Images:
        """Return the images of x_0, in [-1, 1]."""
        raise NotImplementedError

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and std; they are saved with the weights."""
        self.denoiser.set_embedding_statistics(mean, std)

    @torch.no_grad()
    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate latents, and decode them."""
        init = None if init is None else replace(init, x_0=self.encoded(init.x_0))
        return self.decoded(self.denoiser.generate(embeddings, seeds, sampling, text, init))
