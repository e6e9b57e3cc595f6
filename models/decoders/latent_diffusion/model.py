"""The latent-diffusion decoder: noise to latents, given a CLIP image embedding; latents to an image.

Paper: Rombach et al., High-resolution image synthesis with latent diffusion models (arXiv 2112.10752).

Symbols: z = latents of the first stage; x_0 = scale_factor (z - shift), of about unit variance (appendix G there):
[batch, channel, row, column]; u = standardized embedding: [batch, embed].
"""

from jaxtyping import Float
from torch import Tensor

from models.autoencoders.model import Autoencoder
from models.decoders.base import Embeddings, Images
from models.decoders.conditioning import make_conditioner
from models.decoders.denoiser import Denoiser, joined_layout, make_text_conditioner
from models.decoders.first_stage import FirstStageDecoder, Latents
from models.decoders.latent_diffusion.networks import make_network
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec
from models.decoders.size_conditioning import SizeNumbers
from models.decoders.training import DenoisingLoss
from models.diffusion.processes import make_process


class LatentDenoiser(Denoiser):
    """All that is trained: it knows latents and embeddings, and no images."""

    spec: LatentDiffusionSpec

    def __init__(self, spec: LatentDiffusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conditioner = make_conditioner(spec.embed_dim, spec.conditioning)
        self.text = make_text_conditioner(spec.text_dim, spec.conditioning.num_tokens, spec.conditioning.token_dim)
        self.process = make_process(spec.process)
        self.network = make_network(spec)

    def forward(
        self,
        noisy: Latents,
        timestep: Float[Tensor, "batch"],
        u: Embeddings,
        v: Embeddings | None = None,
        sizes: SizeNumbers | None = None,
    ) -> Latents:
        """Predict the training target from x_t, the time step, the standardized embeddings, and sizes if any count."""
        grid = joined_layout(noisy.to(u.dtype), self.conditioner.layout_map(u))
        prediction: Tensor = self.network(grid, timestep, u, self.tokens(u, v), self.size_condition(noisy, sizes))
        return prediction.float()

    def to_noise(self, clean: Latents) -> Latents:
        """Return x_0 for the first stage's latents z."""
        return self.spec.scale_factor * (clean.float() - self.spec.shift)

    def from_noise(self, x_0: Latents) -> Latents:
        """Return the first stage's latents z of x_0."""
        return x_0 / self.spec.scale_factor + self.spec.shift


class LatentDecoder(FirstStageDecoder):
    """The denoiser with the first stage whose latents it generates."""

    spec: LatentDiffusionSpec
    denoiser: LatentDenoiser

    def __init__(
        self,
        spec: LatentDiffusionSpec,
        *,
        denoiser: LatentDenoiser | None = None,
        autoencoder: Autoencoder | None = None,
    ) -> None:
        """Put both together; what is not given is built with random weights."""
        super().__init__()
        self.spec = spec
        self.denoiser = LatentDenoiser(spec) if denoiser is None else denoiser
        self.autoencoder = spec.autoencoder.build() if autoencoder is None else autoencoder

    def encoded(self, images: Images) -> Latents:
        """Return x_0 of images in [-1, 1]."""
        return self.denoiser.to_noise(self.autoencoder.encode(images))

    def decoded(self, x_0: Latents) -> Images:
        """Return the images of x_0, in [-1, 1]."""
        return self.autoencoder.decode(self.denoiser.from_noise(x_0)).float().clamp(-1, 1)


def build_training(spec: LatentDiffusionSpec) -> DenoisingLoss:
    """Return the denoiser under its loss."""
    return DenoisingLoss(LatentDenoiser(spec))
