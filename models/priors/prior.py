"""The diffusion prior: from a caption to a CLIP image embedding.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388); method section 2.
The baseline (DALL-E 2) is the same code over the bank that holds only N(0, I).

The process and the loss work on raw embeddings. Only the network's own input and output are rescaled, by numbers
fixed before training: with m, s the mean and deviation of the training embeddings, z_t has about
mean sqrt(abar_t) m + (1 - sqrt(abar_t)) mu and variance abar_t s^2 + (1 - abar_t) Sigma, which are taken out on the
way in; the answer F is put back as z0_hat = m + s F. This changes no equation: it is a parametrisation of z0_hat.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.gaussians import GaussianBank
from models.noise import SeededNoise
from models.priors.base import EmbeddingScale, Prior, require_seeds
from models.priors.config import DiffusionPriorSettings, PriorSampling
from models.priors.schedule import respaced_timesteps
from models.priors.shifted_diffusion import Moments, ShiftedDiffusion
from models.priors.text import TextFeatures
from models.priors.training import text_of
from models.priors.transformer import PriorTransformer


class DiffusionPrior(Prior):
    """A prior by shifted diffusion over any bank of Gaussians; its Gaussians and statistics are in its state."""

    settings: DiffusionPriorSettings

    def __init__(self, settings: DiffusionPriorSettings, bank: GaussianBank) -> None:
        """Build an untrained prior around the bank.

        Raises:
            ValueError: the bank does not fit the settings.
        """
        super().__init__()
        if (bank.embed_dim, bank.num_gaussians) != (settings.embed_dim, settings.num_gaussians):
            raise ValueError(
                f"prior: the bank holds {bank.num_gaussians} Gaussians of {bank.embed_dim} dimensions, but the "
                f"settings say {settings.num_gaussians} of {settings.embed_dim}; fit the Gaussians on the same CLIP"
            )
        self.settings = settings
        self.bank = bank
        self.process = ShiftedDiffusion(settings.schedule)
        self.network = PriorTransformer(settings.network, settings.embed_dim)
        self.image_scale = EmbeddingScale(settings.embed_dim)
        self.text_scale = EmbeddingScale(settings.embed_dim)

    def measure(
        self, image_embeddings: Float[Tensor, "rows embed"], text_embeddings: Float[Tensor, "captions embed"]
    ) -> None:
        """Fix the network's input and output scales from training data; call it once, before training."""
        self.image_scale.measure(image_embeddings)
        self.text_scale.measure(text_embeddings)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return (1 - abar_t) |z_0 - z0_hat(z_t, t, y, c_y)|^2 / d for each pair (method eq. 7).

        The batch holds what :func:`models.priors.training_batch` puts together.
        """
        text, time = text_of(batch), batch["time"]
        z_0 = batch["image_embedding"].float()
        index = self.bank.select(text.embedding)
        gaussian = Moments(*self.bank.moments(index))
        z_t = self.process.diffuse(z_0, time, gaussian, batch["noise"].float())
        predicted = self._predict(z_t, time, index, text, batch["drop_text"])
        return {"loss": self.process.loss(z_0, predicted, time)}

    @torch.no_grad()
    def sample(self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling) -> Float[Tensor, "batch embed"]:
        """Return an embedding for each caption: z_T ~ N(mu, Sigma) (method eq. 4), then down to z_0.

        Every step uses the CAPTION's Gaussian. ``guidance_scale`` 1 means no guidance; with another one
        z0_hat = plain + scale (captioned - plain), in all dimensions (arXiv 2207.12598).

        Raises:
            ValueError: the number of steps is not in 1 ... T, or there is not one seed per caption.
        """
        require_seeds(text, seeds)
        index = self.bank.select(text.embedding)
        gaussian = Moments(*self.bank.moments(index))
        streams = SeededNoise(seeds)
        shape, device = (self.settings.embed_dim,), self.bank.means.device
        z = gaussian.mean + gaussian.std * streams.draw(shape, device)
        times = respaced_timesteps(self.settings.schedule.num_timesteps, sampling.num_steps)
        for now, after in itertools.pairwise(times):
            t, s = (torch.full((len(text),), time, device=device) for time in (now, after))
            z_0 = self._guided(z, t, index, text, sampling.guidance_scale)
            if sampling.sampler == "ddim":
                z = self.process.ddim(z, z_0, t, s, gaussian)
            else:
                mean, std = self.process.posterior(z, z_0, t, s, gaussian)
                z = mean + std * streams.draw(shape, device)
        return z

    def _guided(self, z_t: Tensor, t: Tensor, index: Tensor, text: TextFeatures, scale: float) -> Tensor:
        """Predict z_0 with classifier-free guidance; the Gaussian is part of the process and is never left out."""
        never = torch.zeros(len(z_t), dtype=torch.bool, device=z_t.device)
        captioned = self._predict(z_t, t, index, text, never)
        if scale == 1.0:
            return captioned
        plain = self._predict(z_t, t, index, text, ~never)
        return plain + scale * (captioned - plain)

    def _predict(self, z_t: Tensor, t: Tensor, index: Tensor, text: TextFeatures, drop_text: Tensor) -> Tensor:
        """Return z0_hat(z_t, t, y, c_y) in raw space, float32: [batch, embed]."""
        mean, std = self.bank.moments(index)
        m, s = self.image_scale.mean, self.image_scale.std
        abar, noise_share = self.process.abar(t, z_t), self.process.one_minus_abar(t, z_t)
        centre = abar.sqrt() * m + (1 - abar.sqrt()) * mean
        spread = (abar * s.square() + noise_share * std.square()).sqrt()
        y = (text.embedding.float() - self.text_scale.mean) / self.text_scale.std
        scaled_text = TextFeatures(y, text.states)
        answer = self.network((z_t - centre) / spread, t, index, scaled_text, drop_text)
        predicted: Tensor = m + s * answer.float()
        return predicted
