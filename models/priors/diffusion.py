"""The diffusion prior: from a caption to a CLIP image embedding.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388); method section 2.
The baseline (DALL-E 2) is the same code over the bank that holds only N(0, I).

The process and the loss work on raw embeddings. Only the network's own input and output are rescaled, by numbers
fixed before training: with m, s the mean and deviation of the training embeddings, z_t has about
mean sqrt(abar_t) m + (1 - sqrt(abar_t)) mu and variance abar_t s^2 + (1 - abar_t) Sigma, which are taken out on the
way in; the answer is put back by :func:`models.diffusion.targets.output_scale`. This changes no equation: it is a
parametrisation of the prediction.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.diffusion.guidance import guide
from models.diffusion.samplers import Denoiser, sample_embeddings
from models.diffusion.schedules import respaced_timesteps
from models.diffusion.shifted import Moments, ShiftedDiffusion
from models.diffusion.targets import loss_weight, output_scale, sample_from_target, true_target
from models.gaussians import GaussianBank, bank_loss
from models.noise import SeededNoise
from models.priors.base import EmbeddingScale, Prior, require_finite, require_seeds, require_width
from models.priors.spec import DiffusionPriorSettings, PriorSampling
from models.priors.text import TextFeatures
from models.priors.training import text_of
from models.priors.transformer import PriorTransformer

OnStep = Callable[[int, Tensor, Tensor], None]
"""Takes t, z_t and the prediction of z_0, both [batch, embed]."""


class DiffusionPrior(Prior):
    """A prior by shifted diffusion over any bank of Gaussians; its Gaussians and statistics are in its state."""

    settings: DiffusionPriorSettings

    def __init__(self, settings: DiffusionPriorSettings, bank: GaussianBank) -> None:
        """Build an untrained prior around the Gaussians of the bank, learnable and chosen as the settings say.

        Raises:
            ValueError: the bank does not fit the settings.
        """
        super().__init__()
        if (bank.embed_dim, bank.num_gaussians) != (settings.embed_dim, settings.num_gaussians):
            raise ValueError(
                f"prior: the bank holds {bank.num_gaussians} Gaussians of {bank.embed_dim} dimensions, but the "
                f"settings say {settings.num_gaussians} of {settings.embed_dim}: fit the Gaussians on the same CLIP"
            )
        self.settings = settings
        self.bank = bank.variant(learnable=settings.learnable, selection=settings.selection)
        self.process = ShiftedDiffusion(settings.schedule)
        self.network = PriorTransformer(settings.network, settings.embed_dim)
        self.image_scale = EmbeddingScale(settings.embed_dim)
        self.text_scale = EmbeddingScale(settings.embed_dim)

    def measure(
        self, image_embeddings: Float[Tensor, "rows embed"], text_embeddings: Float[Tensor, "captions embed"]
    ) -> None:
        """Fix the network's input and output scales from training data; call it once, before training.

        Raises:
            ValueError: the embeddings have another width than the prior, or hold numbers that are not finite.
        """
        self.image_scale.measure(image_embeddings)
        self.text_scale.measure(text_embeddings)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss", w |target - prediction|^2 / d of each pair; for z_0 with weight p2 it is method eq. 7.

        With learnable Gaussians "loss" is the sum of "denoising_loss", whose gradient reaches the network only, and
        "bank_loss", w_t L_p of method eq. 6 with the w_t of eq. 7, whose gradient reaches the Gaussians only. The batch
        holds what :func:`models.priors.training_batch` puts together.
        """
        text, t = text_of(batch), batch["time"]
        require_width(text.embedding, self.settings.embed_dim)
        z_0, noise = batch["image_embedding"].float(), batch["noise"].float()
        index, mean, std = self.bank(text.embedding)
        denoising = self._denoising_loss(z_0, noise, t, index, Moments(mean, std).detach(), text, batch["drop_text"])
        if not self.settings.learnable:
            return {"loss": denoising}
        xi = self.settings.separation_weight
        weight = self.process.one_minus_abar(t, z_0).squeeze(1)
        bank = weight * bank_loss(z_0, index, mean, std, batch["bank_noise"], separation_weight=xi)
        return {"loss": denoising + bank, "denoising_loss": denoising, "bank_loss": bank}

    def _denoising_loss(
        self,
        z_0: Tensor,
        noise: Tensor,
        t: Tensor,
        index: Tensor,
        gaussian: Moments,
        text: TextFeatures,
        drop_text: Tensor,
    ) -> Tensor:
        settings, process = self.settings, self.process
        z_t = process.diffuse(z_0, t, gaussian, noise)
        answer = self.network(self._noisy_input(z_t, t, gaussian), t, index, self._text_input(text), drop_text)
        predicted = output_scale(process, settings.target, t, gaussian, self.image_scale)(answer.float())
        expected = true_target(process, settings.target, z_0, noise, t, gaussian)
        weight = loss_weight(process, settings.target, settings.loss_weight, t, min_snr_gamma=settings.min_snr_gamma)
        return weight.to(z_0.dtype) * (expected - predicted).square().mean(-1)

    @torch.no_grad()
    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Float[Tensor, "batch embed"]:
        """Return an embedding for each caption: z_T ~ N(mu, Sigma) (method eq. 4), then down to z_0.

        Every step uses the CAPTION's Gaussian. With a ``guidance_scale`` other than 1 the network is asked once per
        step for captioned and plain answers together; see :func:`models.diffusion.guidance.guide`. ``on_step`` is told
        every time t that is visited, z_t and the (guided) prediction of z_0 made from it.

        Raises:
            ValueError: the number of steps is not in 1 ... T, there is not one seed per caption, or the captions'
                embeddings have another width than the prior or hold numbers that are not finite.
        """
        require_seeds(text, seeds)
        require_width(text.embedding, self.settings.embed_dim)
        require_finite(text.embedding)
        times = respaced_timesteps(self.settings.schedule.num_timesteps, sampling.num_steps)
        index, mean, std = self.bank(text.embedding)
        gaussian, streams = Moments(mean, std), SeededNoise(seeds)
        denoise = self._denoiser(text, index, gaussian, sampling)
        if on_step is not None:
            denoise = _watched(denoise, on_step)

        def noise() -> Tensor:
            return streams.draw((self.settings.embed_dim,), mean.device)

        return sample_embeddings(self.process, gaussian, denoise, noise, times, sampling)

    def _denoiser(self, text: TextFeatures, index: Tensor, gaussian: Moments, sampling: PriorSampling) -> Denoiser:
        """Return z0_hat(z_t, t, y, c_y) as a function of z_t and t; the captions are read once, here.

        The Gaussian is part of the process: guidance leaves out the caption, never the Gaussian.
        """
        text = self._text_input(text)

        def z_0(answer: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
            predicted = output_scale(self.process, self.settings.target, t, gaussian, self.image_scale)(answer.float())
            return sample_from_target(self.process, self.settings.target, predicted, z_t, t, gaussian)

        if sampling.guidance_scale == 1.0:
            prefix = self.network.prefix(text, torch.zeros_like(index, dtype=torch.bool))

            def denoise(z_t: Tensor, t: Tensor) -> Tensor:
                return z_0(self.network.predict(prefix, self._noisy_input(z_t, t, gaussian), t, index), z_t, t)

            return denoise
        both = self.network.guided_prefix(text)  # [2 batch] rows: captioned, then plain

        def denoise_guided(z_t: Tensor, t: Tensor) -> Tensor:
            noisy = self._noisy_input(z_t, t, gaussian).repeat(2, 1)
            answers = self.network.predict(both, noisy, t.repeat(2), index.repeat(2)).chunk(2)
            captioned, plain = (z_0(answer, z_t, t) for answer in answers)
            scale, rescale = sampling.guidance_scale, sampling.guidance_rescale
            return guide(captioned, plain, scale=scale, rescale=rescale, embeddings=self.image_scale)

        return denoise_guided

    def _noisy_input(self, z_t: Tensor, t: Tensor, gaussian: Moments) -> Tensor:
        """Return z_t with mean 0 and variance about 1, over all training embeddings: [batch, embed]."""
        m, s = self.image_scale.mean, self.image_scale.std
        abar, noise_fraction = self.process.abar(t, z_t), self.process.one_minus_abar(t, z_t)
        centre = abar.sqrt() * m + (1 - abar.sqrt()) * gaussian.mean
        spread = (abar * s.square() + noise_fraction * gaussian.std.square()).sqrt()
        return (z_t - centre) / spread

    def _text_input(self, text: TextFeatures) -> TextFeatures:
        """Return the captions with standardised CLIP text embeddings."""
        return TextFeatures((text.embedding.float() - self.text_scale.mean) / self.text_scale.std, text.states)


def _watched(denoise: Denoiser, on_step: OnStep) -> Denoiser:
    """Return the denoiser that also tells what it is asked and what it answers."""

    def watched(z_t: Tensor, t: Tensor) -> Tensor:
        z_0 = denoise(z_t, t)
        on_step(int(t[0]), z_t, z_0)
        return z_0

    return watched
