"""What decoders of latents share: a denoiser, and the autoencoder that the latents are of.

Symbols: x_0 = latents as they are diffused, of about unit variance: [batch, channel, row, column].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoders.base import Decoder, Embeddings, Images
from models.decoders.denoiser import Denoiser
from models.decoders.sampling import DecoderSampling
from models.diffusion.samplers import InitImage

Latents = Float[Tensor, "batch channel row column"]


class FirstStageDecoder(Decoder):
    """A denoiser of latents with their autoencoder; a kind says how images and x_0 become each other."""

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
    def sample(self, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling) -> Images:
        """Generate images in [-1, 1]; each depends on its own embedding and seed alone, up to rounding."""
        return self.decoded(self.denoiser.generate(embeddings, seeds, sampling))

    @property
    def reads_text(self) -> bool:
        """Whether text embeddings are a condition, too."""
        return self.denoiser.text is not None

    @torch.no_grad()
    def sample_with_text(
        self, embeddings: Embeddings, text: Embeddings, seeds: Sequence[int], sampling: DecoderSampling
    ) -> Images:
        """Generate images conditioned on CLIP text embeddings, too; a row of NaN is no text."""
        return self.decoded(self.denoiser.generate(embeddings, seeds, sampling, text=text))

    @property
    def can_edit(self) -> bool:
        """Latents of an image can enter between noise and the end."""
        return True

    @torch.no_grad()
    def edit(
        self,
        images: Images,
        embeddings: Embeddings,
        seeds: Sequence[int],
        sampling: DecoderSampling,
        *,
        strength: float,
        text: Embeddings | None = None,
    ) -> Images:
        """Noise the images' latents to a strength, and denoise them under the embeddings."""
        init_image = InitImage(self.encoded(images), strength)
        return self.decoded(self.denoiser.generate(embeddings, seeds, sampling, text=text, init_image=init_image))
