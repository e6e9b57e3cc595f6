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
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.buffers import ExactBuffers
from models.gaussians import GaussianBank
from models.noise import SeededNoise
from models.priors.config import PriorSettings, Sampler
from models.priors.schedule import respaced_timesteps
from models.priors.shifted_diffusion import Moments, ShiftedDiffusion
from models.priors.text import TextFeatures
from models.priors.transformer import PriorTransformer

_SCALE_FLOOR = 1e-4


@dataclass(frozen=True)
class TrainingDraws:
    """The random numbers of one training pass, drawn outside of the model, so that the loss is a pure function."""

    time: Int[Tensor, "batch"]  # uniform in 1 ... T
    noise: Float[Tensor, "batch embed"]  # standard normal
    drop_text: Bool[Tensor, "batch"]  # captions to leave out, for classifier-free guidance


def training_draws(settings: PriorSettings, seeds: Sequence[int], *, text_dropout: float) -> TrainingDraws:
    """Draw the random numbers of one training pass on the CPU, each sample's from its own seed."""
    streams = SeededNoise(seeds)
    uniform = streams.uniform((2,), dtype=torch.float64)  # [batch, 2]
    return TrainingDraws(
        time=(uniform[:, 0] * settings.schedule.num_timesteps).long() + 1,
        noise=streams.draw((settings.embed_dim,)),
        drop_text=uniform[:, 1] < text_dropout,
    )


class Prior(Protocol):
    """What every kind of prior offers, diffusion or not."""

    settings: PriorSettings

    def loss(
        self, image_embeddings: Float[Tensor, "batch embed"], text: TextFeatures, draws: TrainingDraws
    ) -> Float[Tensor, "batch"]:
        """Return the loss of each pair."""
        ...

    def sample(
        self, text: TextFeatures, seeds: Sequence[int], *, num_steps: int, guidance_scale: float
    ) -> Float[Tensor, "batch embed"]:
        """Return an image embedding for each caption; it depends on the caption and its seed alone."""
        ...


class EmbeddingScale(ExactBuffers):
    """Mean and deviation of embeddings in each dimension, by which they are standardised for the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("std", torch.ones(embed_dim))

    def measure(self, embeddings: Float[Tensor, "rows embed"]) -> None:
        """Take the statistics of these embeddings; no deviation falls below 1e-4 of their root mean square."""
        exact = embeddings.double()
        variance = exact.var(0, correction=0)
        self.mean.copy_(exact.mean(0))
        floor = _SCALE_FLOOR * float(variance.mean().sqrt()) or 1.0  # all rows equal: any scale does
        self.std.copy_(variance.sqrt().clamp_min(floor))


class DiffusionPrior(nn.Module):
    """A prior by shifted diffusion over any bank of Gaussians; its Gaussians and statistics are in its state."""

    def __init__(self, settings: PriorSettings, bank: GaussianBank) -> None:
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

    def measure_scales(
        self, image_embeddings: Float[Tensor, "rows embed"], text_embeddings: Float[Tensor, "rows embed"]
    ) -> None:
        """Fix the network's input and output scales from training data; call it once, before training."""
        self.image_scale.measure(image_embeddings)
        self.text_scale.measure(text_embeddings)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of each pair; the batch holds what :func:`training_batch` puts together."""
        text = TextFeatures(batch["text_embedding"], batch.get("text_states"), batch.get("text_lengths"))
        draws = TrainingDraws(batch["time"], batch["noise"], batch["drop_text"])
        return {"loss": self.loss(batch["image_embedding"], text, draws)}

    def loss(
        self, image_embeddings: Float[Tensor, "batch embed"], text: TextFeatures, draws: TrainingDraws
    ) -> Float[Tensor, "batch"]:
        """Return (1 - abar_t) |z_0 - z0_hat(z_t, t, y, c_y)|^2 / d for each pair (method eq. 7)."""
        z_0 = image_embeddings.float()
        index = self.bank.select(text.embedding)
        gaussian = Moments(*self.bank.moments(index))
        z_t = self.process.diffuse(z_0, draws.time, gaussian, draws.noise.float())
        predicted = self._predict(z_t, draws.time, index, text, draws.drop_text)
        return self.process.loss(z_0, predicted, draws.time)

    @torch.no_grad()
    def sample(
        self,
        text: TextFeatures,
        seeds: Sequence[int],
        *,
        num_steps: int,
        guidance_scale: float = 1.0,
        sampler: Sampler = "ancestral",
    ) -> Float[Tensor, "batch embed"]:
        """Return an embedding for each caption: z_T ~ N(mu, Sigma) (method eq. 4), then down to z_0.

        Every step uses the CAPTION's Gaussian. ``guidance_scale`` 1 means no guidance; with another one
        z0_hat = plain + scale (captioned - plain), in all dimensions (arXiv 2207.12598).

        Raises:
            ValueError: the number of steps is not in 1 ... T, or there is not one seed per caption.
        """
        if len(seeds) != len(text):
            raise ValueError(f"prior sampling: {len(text)} captions but {len(seeds)} seeds; give one seed per caption")
        index = self.bank.select(text.embedding)
        gaussian = Moments(*self.bank.moments(index))
        streams = SeededNoise(seeds)
        shape, device = (self.settings.embed_dim,), self.bank.means.device
        z = gaussian.mean + gaussian.std * streams.draw(shape, device)
        times = respaced_timesteps(self.settings.schedule.num_timesteps, num_steps)
        for now, after in itertools.pairwise(times):
            t, s = (torch.full((len(text),), time, device=device) for time in (now, after))
            z_0 = self._guided(z, t, index, text, guidance_scale)
            if sampler == "ddim":
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
        scaled_text = TextFeatures(y, text.states, text.lengths)
        answer = self.network((z_t - centre) / spread, t, index, scaled_text, drop_text)
        predicted: Tensor = m + s * answer.float()
        return predicted


def training_batch(
    image_embeddings: Float[Tensor, "batch embed"], text: TextFeatures, draws: TrainingDraws
) -> dict[str, Tensor]:
    """Put together, as plain named tensors, what a prior's ``forward`` takes."""
    batch = {
        "image_embedding": image_embeddings,
        "text_embedding": text.embedding,
        "time": draws.time,
        "noise": draws.noise,
        "drop_text": draws.drop_text,
    }
    if text.states is not None and text.lengths is not None:
        batch |= {"text_states": text.states, "text_lengths": text.lengths}
    return batch


def make_prior(settings: PriorSettings, bank: GaussianBank | None = None) -> DiffusionPrior:
    """Build an untrained prior; without a bank, around a placeholder bank to load a saved state into.

    Raises:
        ValueError: the bank does not fit the settings.
    """
    if bank is None:
        blank = torch.zeros(settings.num_gaussians, settings.embed_dim)
        bank = GaussianBank(blank, torch.ones_like(blank), kappa=1.0)
    return DiffusionPrior(settings, bank)
