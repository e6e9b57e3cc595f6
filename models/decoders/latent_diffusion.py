"""The latent-diffusion decoder: noise to latents, given a CLIP image embedding; latents to a picture.

Paper: Rombach et al., High-resolution image synthesis with latent diffusion models (arXiv 2112.10752).

Symbols: z = latents of the first stage; x_0 = scale_factor (z - shift), of about unit variance (appendix G there):
[batch, channel, row, column]; u = standardized embedding: [batch, embed].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoders.autoencoder import Autoencoder, make_autoencoder
from models.decoders.base import Decoder, Embeddings, Images
from models.decoders.conditioning import EmbeddingConditioner, LayoutConfig
from models.decoders.denoiser import Denoiser, joined_layout, make_text_tokens
from models.decoders.latent_config import LatentDecoderConfig
from models.decoders.latent_networks import make_network
from models.decoders.process import Start, make_process
from models.decoders.sampling import DecoderSampling

Latents = Float[Tensor, "batch channel row column"]


class LatentDenoiser(Denoiser):
    """All that is trained: it knows latents and embeddings, and no pictures."""

    config: LatentDecoderConfig

    def __init__(self, config: LatentDecoderConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        layout = LayoutConfig(config.layout_channels, config.layout_resolution, config.layout_hidden)
        self.conditioner = EmbeddingConditioner(
            config.embed_dim,
            num_tokens=config.num_tokens,
            token_dim=config.token_dim,
            layout=layout if config.layout_channels else None,
            empty_probability=config.empty_probability,
            embedding_noise=config.embedding_noise,
        )
        self.text = make_text_tokens(config)
        self.process = make_process(config.process)
        self.network = make_network(config)

    def forward(
        self, noisy: Latents, timestep: Float[Tensor, "batch"], u: Embeddings, v: Embeddings | None = None
    ) -> Latents:
        """Predict the training target from x_t, the time step and the standardized embeddings."""
        grid = joined_layout(noisy.to(u.dtype), self.conditioner.layout_map(u))
        prediction: Tensor = self.network(grid, timestep, u, self.tokens(u, v))
        return prediction.float()

    def to_noise(self, clean: Latents) -> Latents:
        """Return x_0 for the first stage's latents z."""
        return self.config.scale_factor * (clean.float() - self.config.shift)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents."""
        return self.config.autoencoder.latent_shape

    def sample(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        sampling: DecoderSampling,
        *,
        text: Embeddings | None = None,
        start: Start | None = None,
    ) -> Latents:
        """Draw latents z; each depends on its own embedding and seed alone."""
        x_0 = self.draw(embeddings, seeds, sampling, text=text, start=start)
        return x_0 / self.config.scale_factor + self.config.shift


class LatentDecoder(Decoder):
    """The denoiser with the first stage whose latents it draws."""

    config: LatentDecoderConfig

    def __init__(
        self,
        config: LatentDecoderConfig,
        *,
        denoiser: LatentDenoiser | None = None,
        autoencoder: Autoencoder | None = None,
    ) -> None:
        """Put both together; what is not given is built with random weights."""
        super().__init__()
        self.config = config
        self.denoiser = LatentDenoiser(config) if denoiser is None else denoiser
        self.autoencoder = make_autoencoder(config.autoencoder) if autoencoder is None else autoencoder

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and deviation; they are saved with the weights."""
        self.denoiser.set_embedding_statistics(mean, std)

    @torch.no_grad()
    def sample(self, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling) -> Images:
        """Draw pictures in [-1, 1]; each depends on its own embedding and seed alone, up to rounding."""
        return self._pictures(self.denoiser.sample(embeddings, seeds, sampling))

    @property
    def reads_text(self) -> bool:
        """Whether text embeddings are a condition, too."""
        return self.config.text_dim > 0

    @torch.no_grad()
    def sample_with_text(
        self, embeddings: Embeddings, text: Embeddings, seeds: Sequence[int], sampling: DecoderSampling
    ) -> Images:
        """Draw pictures told by CLIP text embeddings, too; a row of NaN is no text."""
        return self._pictures(self.denoiser.sample(embeddings, seeds, sampling, text=text))

    @property
    def can_edit(self) -> bool:
        """Latents of a picture can enter between noise and the end."""
        return True

    @torch.no_grad()
    def edit(
        self,
        pictures: Images,
        embeddings: Embeddings,
        seeds: Sequence[int],
        sampling: DecoderSampling,
        *,
        strength: float,
        text: Embeddings | None = None,
    ) -> Images:
        """Noise the pictures' latents to a strength, and denoise them under the embeddings."""
        start = Start(self.denoiser.to_noise(self.autoencoder.encode(pictures)), strength)
        return self._pictures(self.denoiser.sample(embeddings, seeds, sampling, text=text, start=start))

    def _pictures(self, latents: Latents) -> Images:
        return self.autoencoder.decode(latents).float().clamp(-1, 1)
