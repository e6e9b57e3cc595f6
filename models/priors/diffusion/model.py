"""The diffusion prior: from a caption to a CLIP image embedding.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388).
The baseline (DALL-E 2) is the same code over the bank that holds only N(0, I).

The process and the loss work on raw embeddings. Only the network's own input and output are rescaled, by numbers
fixed before training: with m, s the mean and standard deviation of the training embeddings, z_t has about
mean sqrt(abar_t) m + (1 - sqrt(abar_t)) mu and variance abar_t s^2 + (1 - abar_t) Sigma, which are taken out on the
input side; the output is put back by :func:`models.diffusion.targets.output_scale`. This changes no equation: it is a
parametrisation of the prediction. With ``standardise: gaussian`` m, s are those of the caption's Gaussian (without
kappa), which leaves u_t = Sigma^(-1/2) (z_t - mu) but for a factor; with ``none`` nothing is rescaled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.diffusion.guidance import Predictor, guide
from models.diffusion.loss_weights import denoising_loss
from models.diffusion.processes import Gaussian, Process, make_process
from models.diffusion.samplers import Estimate, sample
from models.diffusion.schedules import alpha_bars
from models.diffusion.targets import Affine, output_scale, sample_from_target
from models.gaussians.bank import GaussianBank, Selection
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss
from models.noise import SeededNoise
from models.normalization import Normalization
from models.priors.base import (
    STD_FLOOR,
    Captions,
    Embeddings,
    OnStep,
    Prior,
    Rows,
    require_captions,
    require_embeddings,
    require_seeds,
    require_width,
)
from models.priors.diffusion.spec import GaussianPriorSpec, ProcessPriorSpec, ShiftedPriorSpec
from models.priors.spec import PriorSampling, PriorSpec
from models.priors.text import TextFeatures
from models.priors.training import text_of
from models.priors.transformer import PriorTransformer
from models.whole_batch import ALONE

_ROWS_AT_ONCE = 65_536
_SMALLEST_STD = 1e-2  # of a Gaussian, where the velocity is predicted; as a fraction of the training embeddings' std


class DiffusionPrior(Prior):
    """A prior by shifted diffusion over any bank of Gaussians; its Gaussians and statistics are in its state."""

    spec: ProcessPriorSpec
    gaussian_weights: Tensor
    """How many training images chose each Gaussian, float64: [gauss]; of priors that sample without captions."""

    def __init__(self, spec: ProcessPriorSpec, bank: GaussianBank | None = None) -> None:
        """Build an untrained prior around the Gaussians of the bank, learnable and chosen as the spec says.

        Without a bank it has blank Gaussians, to load a saved state into.
        """
        super().__init__(spec)
        options: dict[str, Any] = {"learnable": spec.learnable, "selection": spec.selection}
        if bank is not None and (bank.embed_dim, bank.num_gaussians) != (spec.embed_dim, spec.num_gaussians):
            raise ValueError(
                f"prior: the bank holds {bank.num_gaussians} Gaussians of {bank.embed_dim} dimensions, but the "
                f"spec says {spec.num_gaussians} of {spec.embed_dim}: fit the Gaussians on the same CLIP"
            )
        if bank is None:
            options["text_dim"] = spec.choosing_dim
            self.bank = GaussianBank.blank(spec.num_gaussians, spec.embed_dim, **options)
        else:
            self.bank = bank.variant(**options)
        self.process = self.make_process(spec)
        self.network = PriorTransformer(
            spec.network, spec.embed_dim, text_dim=spec.text_dim, captions_added=spec.is_unconditional
        )
        if spec.is_unconditional:
            self.register_buffer("gaussian_weights", torch.ones(spec.num_gaussians, dtype=torch.float64))
        self.image_scale = Normalization(spec.embed_dim, floor=STD_FLOOR)
        self.text_scale = Normalization(spec.caption_dim, floor=STD_FLOOR)

    @classmethod
    def for_training(
        cls,
        spec: PriorSpec,
        images: Rows,
        texts: Captions,
        gaussians: tuple[Tensor, Tensor] | None,
        *,
        captioned: Rows | None = None,
    ) -> Self:
        """Return an untrained prior around its Gaussians: the fitted ones, widened by kappa, or the baseline's one."""
        prior = cls(cast(ProcessPriorSpec, spec), cls.make_bank(spec, images, texts, gaussians, captioned))
        prior.measure(images, texts)
        return prior

    @staticmethod
    def make_process(spec: Any) -> Process:
        """Return the noise process of a spec."""
        return make_process(spec.process, alpha_bars(spec.schedule))

    @staticmethod
    def make_bank(
        spec: Any, images: Rows, texts: Captions, fitted: tuple[Tensor, Tensor] | None, captioned: Rows | None = None
    ) -> GaussianBank:
        """Return the Gaussians that training starts with."""
        return make_bank(spec, images, texts, fitted, captioned)

    @staticmethod
    def sample_times(spec: Any, uniform: Float[Tensor, " batch"]) -> Tensor:
        """Return the times of training for uniform numbers in [0, 1)."""
        times: Tensor = (uniform * spec.schedule.num_timesteps).long() + 1
        return times

    @classmethod
    def random_inputs(cls, spec: PriorSpec, streams: SeededNoise, *, text_dropout: float) -> dict[str, Tensor]:
        """Return dropped captions, times and noise, and noise for the Gaussians if they are learned."""
        spec = cast(ProcessPriorSpec, spec)
        uniform = streams.uniform((2,), dtype=torch.float64)  # [batch, 2]
        inputs = {
            "drop_text": uniform[:, 1] < text_dropout,
            "time": cls.sample_times(spec, uniform[:, 0]),
            "noise": streams.normal((spec.embed_dim,)),
        }
        if spec.learnable:
            inputs["bank_noise"] = streams.normal((NUM_BANK_SAMPLES, spec.embed_dim))
        return inputs

    @property
    def scales(self) -> tuple[Normalization, Normalization]:
        """Mean and standard deviation of the images and of the captions that it learned from."""
        return self.image_scale, self.text_scale

    def measure(self, images: Rows, texts: Captions) -> None:
        """Fix the network's input and output scales from training data; call it once, before training."""
        measured = [(self.image_scale, images, self.spec.embed_dim), (self.text_scale, texts, self.spec.caption_dim)]
        if self.spec.learned_from == "images" and self.spec.text_dim is not None:  # there are no texts
            measured.pop()
        for scale, embeddings, width in measured:
            require_embeddings(embeddings, width)
            scale.measure(embeddings)
        if self.spec.is_unconditional:
            for part in torch.split(images, _ROWS_AT_ONCE):
                chosen = self.bank.select_images(part)
                self.gaussian_weights += torch.bincount(chosen, minlength=self.spec.num_gaussians)
            self.gaussian_weights -= 1  # of the blank ones
        self._require_velocities()

    def _require_velocities(self) -> None:
        """Refuse a velocity, a_t eps - b_t Sigma^(-1/2) (z_0 - mu), that a narrow Gaussian makes too large to learn."""
        if self.spec.target != "velocity":
            return
        smallest = float((self.bank.kappa * self.bank.gaussians()[1].detach() / self.image_scale.std).min())
        if smallest < _SMALLEST_STD:
            raise ValueError(
                f"prior with target velocity: found a Gaussian whose std is {smallest:.3g} of the training embeddings' "
                f"in one dimension: expected at least {_SMALLEST_STD}: raise kappa or noise_scale, or choose target "
                "sample"
            )

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss", w |target - prediction|^2 / d of each pair; for z_0 with weight p2 it is method eq. 7.

        With learnable Gaussians "loss" is the sum of "denoising_loss", whose gradient reaches the network only, and
        "bank_loss", w_t L_p of method eq. 6 with the w_t of eq. 7, whose gradient reaches the Gaussians only. The batch
        holds what :func:`models.priors.training.training_batch` puts together.
        """
        text = text_of(batch)
        require_width(text.embedding, self.spec.caption_dim)
        index, mean, std = self.source(text)
        denoising = self.denoising_loss(batch, text, index, Gaussian(mean.detach(), std.detach()))
        if not self.spec.learnable:
            return {"loss": denoising}
        z_0, xi = batch["image_embedding"].float(), self.spec.separation_weight
        weight = self.process.squares(batch["time"])[1].to(z_0.dtype)
        whole_batch = self.whole_batch if self.training else ALONE
        bank = weight * bank_loss(
            z_0, index, mean, std, batch["bank_noise"], separation_weight=xi, whole_batch=whole_batch
        )
        return {"loss": denoising + bank, "denoising_loss": denoising, "bank_loss": bank}

    def denoising_loss(
        self, batch: Mapping[str, Tensor], text: TextFeatures, index: Tensor, gaussian: Gaussian
    ) -> Float[Tensor, " batch"]:
        """Return the weighted error of each sample's prediction, of captions whose Gaussian is known."""
        z_0, noise, t = batch["image_embedding"].float(), batch["noise"].float(), batch["time"]
        z_t, time = self.process.diffuse(z_0, t, gaussian, noise), self.process.count(t)
        noisy = self._noisy_input(z_t, t, gaussian)
        output = self.network(noisy, time, index, self._text_input(text), batch["drop_text"])
        predicted = self._output_scale(t, gaussian)(output.float())
        return denoising_loss(self.process, predicted, z_0, noise, t, gaussian=gaussian)

    def _sample_of(self, output: Tensor, z_t: Embeddings, t: Tensor, gaussian: Gaussian) -> Embeddings:
        """Return the z_0 that an output of the network means."""
        predicted = self._output_scale(t, gaussian)(output.float())
        return sample_from_target(self.process, self.spec.target, predicted, z_t, t, gaussian=gaussian)

    def source(self, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_y, mu and Sigma^(1/2) of the Gaussian that each caption's process ends in."""
        of_images = text.image is not None
        index, mean, std = self.bank(text.image if of_images else text.embedding, of_images=of_images)
        return index, mean, std

    @torch.no_grad()
    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return an embedding for each caption: z_T ~ N(mu, Sigma) (method eq. 4), then down to z_0.

        Every step uses the CAPTION's Gaussian. With a ``guidance_scale`` other than 1 the network is run once per
        step for both outputs together; see :func:`models.diffusion.guidance.guide`. ``on_step`` is given the
        number of each step, the time t of its beginning, z_t and the (guided) prediction of z_0 made from it. A
        distilled prior takes the steps that it was made for, by DDIM and without guidance, whatever ``sampling`` says.
        """
        sampling = self.spec.sampling_of(sampling)
        require_captions(self.spec)
        require_seeds(text, seeds)
        require_embeddings(text.embedding, self.spec.caption_dim)
        index, mean, std = self.source(text)
        gaussian = Gaussian(mean, std)
        predict = self.predictor(text, index, gaussian, sampling)
        return self._run(predict, gaussian, SeededNoise(seeds), sampling, on_step)

    @torch.no_grad()
    def _sample_unconditional(
        self, seeds: Sequence[int], sampling: PriorSampling, on_step: OnStep | None
    ) -> Embeddings:
        """Choose each sample's Gaussian as often as the training images did, then run the process without a caption."""
        sampling, streams, weights = self.spec.sampling_of(sampling), SeededNoise(seeds), self.gaussian_weights
        index = torch.zeros(len(seeds), dtype=torch.long, device=weights.device)
        if len(weights) > 1:
            cumulated = (weights / weights.sum()).cumsum(0)
            chosen = torch.searchsorted(cumulated, streams.uniform((), weights.device, torch.float64), right=True)
            index = chosen.clamp_max(len(weights) - 1)  # the sum may round to less than 1
        gaussian = Gaussian(*self.bank.moments(index))
        widths = {name: states.width for name, states in self.spec.network.text_states.items()}
        nothing = TextFeatures.missing(torch.zeros(len(seeds), self.spec.caption_dim, device=weights.device), widths)
        drop_text = torch.ones_like(index, dtype=torch.bool)
        predict = self.predictor(nothing, index, gaussian, replace(sampling, guidance_scale=1.0), drop_text=drop_text)
        return self._run(predict, gaussian, streams, sampling, on_step)

    def _run(
        self,
        predict: Predictor,
        gaussian: Gaussian,
        streams: SeededNoise,
        sampling: PriorSampling,
        on_step: OnStep | None,
    ) -> Embeddings:
        """Run the process backwards with a predictor of z_0."""
        steps, device = self.process.steps(sampling.num_steps), self.image_scale.mean.device

        def estimate(z_t: Tensor, t: Tensor) -> Estimate:
            return Estimate(predict(z_t, t))

        def report(number: int, time: float, z_t: Tensor, z_0: Tensor) -> None:
            if on_step is not None:
                count = self.process.count(torch.tensor([time], dtype=torch.float64))
                on_step(number, float(count), z_t, z_0)

        def noise() -> Tensor:
            return streams.normal((self.spec.embed_dim,), device)

        return sample(self.process, estimate, noise, steps, solver=sampling, gaussian=gaussian, on_step=report)

    def predictor(
        self,
        text: TextFeatures,
        index: Tensor,
        gaussian: Gaussian,
        sampling: PriorSampling,
        *,
        drop_text: Bool[Tensor, " batch"] | None = None,
    ) -> Predictor:
        """Return z0_hat(z_t, t, y, c_y) as a function of z_t and t; the captions are read once, here, or dropped.

        The Gaussian is part of the process: guidance leaves out the caption, never the Gaussian.
        """
        text, process = self._text_input(text), self.process
        drop_text = torch.zeros_like(index, dtype=torch.bool) if drop_text is None else drop_text
        if sampling.guidance_scale == 1.0:
            prefix = self.network.prefix(text, drop_text)

            def predict(z_t: Tensor, t: Tensor) -> Tensor:
                noisy = self._noisy_input(z_t, t, gaussian)
                return self._sample_of(self.network.predict(prefix, noisy, process.count(t), index), z_t, t, gaussian)

            return predict
        both = self.network.guided_prefix(text, drop_text)  # [2 batch] rows: conditional, then unconditional

        def predict_guided(z_t: Tensor, t: Tensor) -> Tensor:
            noisy = self._noisy_input(z_t, t, gaussian).repeat(2, 1)
            outputs = self.network.predict(both, noisy, process.count(t).repeat(2), index.repeat(2)).chunk(2)
            conditional, unconditional = (self._sample_of(output, z_t, t, gaussian) for output in outputs)
            rescale, fraction = sampling.guidance_rescale, (process.count(t) / process.num_timesteps)[:, None]
            guided = guide(
                conditional, unconditional, scale=sampling.guidance_scale, rescale=rescale,
                normalization=self.image_scale,
            )  # fmt: skip
            within = (sampling.guidance_start <= fraction) & (fraction <= sampling.guidance_end)
            return torch.where(within, guided, conditional)

        return predict_guided

    def _noisy_input(self, z_t: Tensor, t: Tensor, gaussian: Gaussian) -> Tensor:
        """Return z_t with mean 0 and variance about 1, over all training embeddings: [batch, embed]."""
        if self.spec.standardise == "none":
            return z_t
        m, s = self._statistics(gaussian)
        signal, noise = self.process.variances(t, z_t)
        centre = signal.sqrt() * m + (1 - signal.sqrt()) * gaussian.mean
        spread = (signal * s.square() + noise * torch.as_tensor(gaussian.std).square()).sqrt()
        return (z_t - centre) / spread

    def _statistics(self, gaussian: Gaussian) -> tuple[Tensor, Tensor]:
        """Return m, s: the mean and standard deviation that embeddings are taken to have."""
        if self.spec.standardise == "global":
            return self.image_scale.mean, self.image_scale.std
        return torch.as_tensor(gaussian.mean), torch.as_tensor(gaussian.std) / self.bank.kappa

    def _output_scale(self, t: Tensor, gaussian: Gaussian) -> Affine:
        """Return how the network's output becomes a prediction of the target."""
        if self.spec.standardise == "none":
            return Affine(0.0, 1.0)
        m, s = self._statistics(gaussian)
        return output_scale(self.process, self.spec.target, t, gaussian, m=m, s=s)

    def _text_input(self, text: TextFeatures) -> TextFeatures:
        """Return the captions with standardised CLIP text embeddings, or raw ones."""
        if self.spec.standardise == "none":
            return text
        return TextFeatures(self.text_scale.normalize(text.embedding), text.states)


def make_bank(
    spec: PriorSpec,
    images: Rows,
    texts: Captions,
    fitted: tuple[Tensor, Tensor] | None,
    captioned: Rows | None = None,
) -> GaussianBank:
    """Return the Gaussians that a kind starts from."""
    if isinstance(spec, ShiftedPriorSpec):
        if fitted is None:
            raise ValueError("prior of kind shifted: found no fitted Gaussians: expected means and stds: fit them")
        bank = fitted_bank(spec, fitted, texts, captioned, kappa=spec.kappa, selection=spec.selection)
        return bank if spec.noise_scale is None else scaled_bank(bank, spec.noise_scale, images, texts)
    if not isinstance(spec, GaussianPriorSpec) or spec.noise_scale is None:
        return GaussianBank.standard(spec.embed_dim)
    return GaussianBank.isotropic(spec.embed_dim, spec.noise_scale * rms_std(images))


def fitted_bank(
    spec: ProcessPriorSpec,
    fitted: tuple[Tensor, Tensor],
    texts: Captions,
    captioned: Rows | None,
    *,
    kappa: float,
    selection: Selection = "means",
) -> GaussianBank:
    """Return the fitted Gaussians, with the texts that they are chosen by where these are of another space.

    ``captioned`` holds the image of each text; None: there are no texts, or they are of the images' space.
    """
    bank = GaussianBank(*fitted, kappa=kappa, selection=selection, text_dim=spec.choosing_dim)
    if spec.choosing_dim is not None and captioned is not None:
        bank.learn_texts(captioned, texts)
    return bank


def scaled_bank(bank: GaussianBank, noise_scale: float, images: Rows, texts: Captions) -> GaussianBank:
    """Return the Gaussians with the kappa that makes their noise so strong; see ``noise_scale`` of kind shifted."""
    kappa = noise_scale * rms_std(images) / _rms_std_of_chosen(bank, texts)
    return bank.widened(kappa)


def rms_std(images: Rows) -> float:
    """Return the root mean square, over the dimensions, of the standard deviations of the training embeddings."""
    return float(images.double().var(0, correction=0).mean().sqrt())


def _rms_std_of_chosen(bank: GaussianBank, texts: Captions) -> float:
    """Return the same of the Gaussians that the captions choose, each caption counting once."""
    counts = torch.zeros(bank.num_gaussians, dtype=torch.float64)
    for part in torch.split(texts, _ROWS_AT_ONCE):
        chosen = bank.select_images(part) if bank.lacks_texts else bank.select(part)
        counts += torch.bincount(chosen, minlength=len(counts))
    squares = bank.gaussians()[1].double().square().mean(1)
    return float((counts @ squares / counts.sum()).sqrt())
