"""The noise processes of diffusion decoders, and their samplers from diffusers.

Both mix image (or latent) and noise, x_t = a_t x_0 + b_t eps, with time t in [0, 1]:

    flow   a_t = 1 - t              b_t = t                    (rectified flow, Liu et al. 2022)
    ddpm   a_t = sqrt(abar_t)       b_t = sqrt(1 - abar_t)     (Ho et al. 2020; Nichol and Dhariwal 2021)

Symbols: x_0 = image, eps = noise, x_t = noisy image: [batch, channel, row, column]; t: [batch];
SNR = a_t^2 / b_t^2; v = a_t eps - b_t x_0 (Salimans and Ho 2022).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor, nn

from models.buffers import ExactBuffers
from models.diffusion.spec import ProcessConfig, Target

Images = Float[Tensor, "batch channel row column"]
Times = Float[Tensor, "batch"]
Predictor = Callable[[Tensor, Tensor], Tensor]
"""The network as a sampler sees it: x_t and a time step to the (guided) prediction."""

NUM_TIMESTEPS = 1000
MIN_FLOW_TIME = 0.1
PREDICTION_TYPES: dict[Target, str] = {  # in diffusers' words
    "sample": "sample",
    "noise": "epsilon",
    "velocity": "v_prediction",
}
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}


@dataclass(frozen=True)
class InitImage:
    """An image to begin from, noised to a strength, instead of noise alone (SDEdit, Meng et al., arXiv 2108.01073)."""

    x_0: Images
    strength: float
    """0: the image as it is; 1: noise alone; between them it is rounded up to a whole step of the solver."""

    def __post_init__(self) -> None:
        """Refuse what is no share of the way."""
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"Start.strength: found {self.strength!r}: expected 0 to 1")

    def skipped(self, num_steps: int) -> int:
        """Return how many of the solver's steps lie before the start."""
        return num_steps - math.ceil(round(self.strength * num_steps, 6))


def enter(
    noise: Images, start: InitImage | None, num_steps: int, mixed: Callable[[Images, int], Images]
) -> tuple[Images, int]:
    """Return x_t where a solver begins, and the number of its first step; ``mixed`` noises an image for a step.

    At strength 1 that is the noise alone, though the first step of most schedules would leave a trace of the image.
    """
    first = 0 if start is None else start.skipped(num_steps)
    if start is None or first == 0:
        return noise, 0
    return (start.x_0 if first == num_steps else mixed(start.x_0, first)), first


class Process(nn.Module):
    """A way to noise images, a training target, and the sampler that belongs to them."""

    def mix(self, images: Images, noise: Images, time: Times) -> tuple[Images, Times]:
        """Return x_t and the time step to tell the network."""
        raise NotImplementedError

    def loss(self, prediction: Images, images: Images, noise: Images, time: Times) -> Times:
        """Return every sample's mean squared error, weighted by time."""
        raise NotImplementedError

    def sample(
        self,
        predict: Predictor,
        noise: Images,
        num_steps: int,
        *,
        bounded: bool = True,
        dynamic_threshold: float | None = None,
        start: InitImage | None = None,
    ) -> Images:
        """Integrate from pure noise, or from where ``start`` says, to an image.

        ``bounded`` holds predicted images in [-1, 1], for pixels, not for latents: by clipping, or, with a
        ``dynamic_threshold`` p, by :func:`threshold`.
        """
        raise NotImplementedError


class FlowSample(Process):
    """Rectified flow whose network predicts x_0.

    The error is that of the velocity eps - x_0 = (x_t - x_0) / t, so it is weighted by 1 / t^2, with t held above 0.1.
    """

    def mix(self, images: Images, noise: Images, time: Times) -> tuple[Images, Times]:
        """Return x_t = (1 - t) x_0 + t eps."""
        return torch.lerp(images, noise, _per_image(time)), time * NUM_TIMESTEPS

    def loss(self, prediction: Images, images: Images, noise: Images, time: Times) -> Times:
        """Return |x_0 - prediction|^2 / max(t, 0.1)^2."""
        return _mean_square(prediction - images) / time.clamp_min(MIN_FLOW_TIME).square()

    def sample(
        self,
        predict: Predictor,
        noise: Images,
        num_steps: int,
        *,
        bounded: bool = True,
        dynamic_threshold: float | None = None,
        start: InitImage | None = None,
    ) -> Images:
        """Take Euler steps along (x_t - x_0) / t."""
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS)
        times = torch.linspace(1.0, 1.0 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=times.tolist(), device=noise.device)
        x_t, first = enter(noise, start, num_steps, lambda x_0, step: torch.lerp(x_0, noise, float(times[step])))
        for t, timestep in zip(times[first:].tolist(), scheduler.timesteps[first:], strict=True):
            x_0 = predict(x_t, timestep)
            x_0 = threshold(x_0, dynamic_threshold) if bounded else x_0
            x_t = scheduler.step((x_t - x_0) / t, timestep, x_t, return_dict=False)[0]
        return x_t


class Ddpm(ExactBuffers, Process):
    """Variance-preserving diffusion, sampled by DDIM (Song et al. 2021).

    The error of the target is weighted by 1, or by what gives the image's error the weight w = min(SNR, gamma)
    (min-SNR, Hang et al. 2023): w itself where the target is x_0, w / SNR for eps, w / (SNR + 1) for v. With a
    terminal SNR of zero, w = min(SNR + 1, gamma), as the last step would not be learned otherwise.
    """

    alphas_cumprod: Tensor

    def __init__(self, config: ProcessConfig, schedule: Mapping[str, Any] | None = None) -> None:
        """Take the schedule from diffusers; ``schedule`` holds a checkpoint's own, in the words of its schedulers."""
        super().__init__()
        self._config = config
        self._schedule = dict(schedule or {"beta_schedule": SCHEDULES[config.schedule]})
        self.register_buffer("alphas_cumprod", self._scheduler().alphas_cumprod.clone(), persistent=False)

    def mix(self, images: Images, noise: Images, time: Times) -> tuple[Images, Times]:
        """Return x_t = a_t x_0 + b_t eps."""
        a, b = self._scales(time)
        return a * images + b * noise, self._index(time).to(time.dtype)

    def loss(self, prediction: Images, images: Images, noise: Images, time: Times) -> Times:
        """Return the weighted error of x_0, eps or v."""
        a, b = self._scales(time)
        match self._config.target:
            case "sample":
                target = images
            case "noise":
                target = noise
            case "velocity":
                target = a * noise - b * images
        return _mean_square(prediction - target) * self._weight((a / b).square().flatten())

    def sample(
        self,
        predict: Predictor,
        noise: Images,
        num_steps: int,
        *,
        bounded: bool = True,
        dynamic_threshold: float | None = None,
        start: InitImage | None = None,
    ) -> Images:
        """Take deterministic DDIM steps."""
        target = self._config.target
        if bounded and dynamic_threshold is not None:
            predict, target, bounded = self._thresholding(predict, dynamic_threshold), "sample", False
        scheduler = self._scheduler(target, clip=bounded)
        scheduler.set_timesteps(num_steps, device=noise.device)
        x_t, first = enter(
            noise, start, num_steps, lambda x_0, step: self._mixed(x_0, noise, scheduler.timesteps[step])
        )
        for timestep in scheduler.timesteps[first:]:
            x_t = scheduler.step(predict(x_t, timestep.to(x_t.dtype)), timestep, x_t, return_dict=False)[0]
        return x_t

    def image(self, prediction: Images, x_t: Images, timestep: Tensor) -> Images:
        """Return the x_0 that a prediction at the time step (a scalar from 0 to 999) means."""
        abar = self.alphas_cumprod[timestep.long()].to(x_t.device)
        match self._config.target:
            case "sample":
                return prediction
            case "noise":
                return (x_t - (1 - abar).sqrt() * prediction) / abar.sqrt()
            case "velocity":
                return abar.sqrt() * x_t - (1 - abar).sqrt() * prediction

    def _mixed(self, images: Images, noise: Images, timestep: Tensor) -> Images:
        abar = self.alphas_cumprod[timestep.long()].to(images.device)
        return abar.sqrt() * images + (1 - abar).sqrt() * noise

    def _thresholding(self, predict: Predictor, fraction: float) -> Predictor:
        return lambda x_t, timestep: threshold(self.image(predict(x_t, timestep), x_t, timestep), fraction)

    def _weight(self, snr: Times) -> Times:
        config = self._config
        if config.loss_weight == "uniform":
            return torch.ones_like(snr)
        clean = (snr + 1 if config.zero_terminal_snr else snr).clamp_max(config.min_snr_gamma)
        divisors = {"sample": torch.ones_like(snr), "noise": snr, "velocity": snr + 1}
        return clean / divisors[config.target]

    def _scheduler(self, target: Target = "sample", *, clip: bool = True) -> DDIMScheduler:
        return DDIMScheduler(
            num_train_timesteps=NUM_TIMESTEPS,
            prediction_type=PREDICTION_TYPES[target],
            timestep_spacing="trailing",
            rescale_betas_zero_snr=self._config.zero_terminal_snr,
            clip_sample=clip,
            **self._schedule,
        )

    def _index(self, time: Times) -> Tensor:
        return (time * NUM_TIMESTEPS).long().clamp(0, NUM_TIMESTEPS - 1)

    def _scales(self, time: Times) -> tuple[Tensor, Tensor]:
        abar = _per_image(self.alphas_cumprod[self._index(time)])
        return abar.sqrt(), (1 - abar).sqrt()


def make_process(config: ProcessConfig) -> Process:
    """Build the process that a configuration names."""
    return FlowSample() if config.path == "flow" else Ddpm(config)


def guided(predict: Callable[[Tensor, Tensor], Tensor], scale: float) -> Predictor:
    """Return a predictor with classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    ``predict`` takes x_t and time steps of twice the batch, whose second half is drawn without the condition.
    """

    def predict_guided(x_t: Images, timestep: Tensor) -> Images:
        told, unconditional = predict(torch.cat([x_t, x_t]), timestep.expand(2 * len(x_t))).chunk(2)
        return torch.lerp(unconditional, told, scale)

    return predict_guided


def threshold(images: Images, fraction: float | None) -> Images:
    """Bring predicted images into [-1, 1] by dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3).

    s is the absolute value that ``share`` of an image's values do not exceed, and at least 1: values are clipped to
    [-s, s] and divided by s. Without a share they are clipped to [-1, 1].
    """
    if fraction is None:
        return images.clamp(-1, 1)
    sizes = images.float().abs().flatten(1)
    s = _per_image(sizes.kthvalue(max(1, math.ceil(fraction * sizes.shape[1])), dim=1).values.clamp_min(1.0))
    s = s.to(images.dtype)
    return images.clamp(-s, s) / s


def _per_image(values: Times) -> Float[Tensor, "batch 1 1 1"]:
    return values[:, None, None, None]


def _mean_square(error: Images) -> Times:
    return error.square().mean(dim=(1, 2, 3))
