"""The latent-diffusion decoder: noise to latents, given a CLIP image embedding; latents to an image.

Paper: Rombach et al., High-resolution image synthesis with latent diffusion models (arXiv 2112.10752).

Symbols: z = latents of the first stage; x_0 = scale_factor (z - shift), of about unit variance (appendix G there):
[batch, channel, row, column]; u = standardized embedding: [batch, embed].
"""

from jaxtyping import Float
from torch import Tensor

from models.autoencoders.model import Autoencoder, make_autoencoder
from models.decoders.base import Embeddings, Images
from models.decoders.conditioning import EmbeddingConditioner, LayoutConfig
from models.decoders.denoiser import Denoiser, joined_layout, make_text_conditioner
from models.decoders.first_stage import FirstStageDecoder, Latents
from models.decoders.latent_diffusion.networks import make_network
from models.decoders.latent_diffusion.spec import LatentDecoderConfig
from models.diffusion.processes import make_process


class LatentDenoiser(Denoiser):
    """All that is trained: it knows latents and embeddings, and no images."""

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
        self.text = make_text_conditioner(config)
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

    def from_noise(self, x_0: Latents) -> Latents:
        """Return the first stage's latents z of x_0."""
        return x_0 / self.config.scale_factor + self.config.shift


class LatentDecoder(FirstStageDecoder):
    """The denoiser with the first stage whose latents it draws."""

    config: LatentDecoderConfig
    denoiser: LatentDenoiser

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

    def encoded(self, images: Images) -> Latents:
        """Return x_0 of images in [-1, 1]."""
        return self.denoiser.to_noise(self.autoencoder.encode(images))

    def decoded(self, x_0: Latents) -> Images:
        """Return the images of x_0, in [-1, 1]."""
        return self.autoencoder.decode(self.denoiser.from_noise(x_0)).float().clamp(-1, 1)
