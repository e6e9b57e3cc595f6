"""The noise processes of the decoder, and their samplers from diffusers.

Both mix picture and noise, x_t = a_t x_0 + b_t eps, with time t in [0, 1]:

    rectified flow   a_t = 1 - t              b_t = t                    (Liu et al. 2022)
    ddpm             a_t = sqrt(abar_t)       b_t = sqrt(1 - abar_t)     (Ho et al. 2020; cosine schedule)

Symbols: x_0 = picture, eps = noise, x_t = noisy picture: [batch, channel, row, column]; t: [batch].
"""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor, nn

from models.buffers import ExactBuffers
from models.decoders.config import Parametrization

Pictures = Float[Tensor, "batch channel row column"]
Times = Float[Tensor, "batch"]
Predictor = Callable[[Tensor, Tensor], Tensor]
"""The network as a sampler sees it: x_t and a time step to the (guided) prediction."""

NUM_TIMESTEPS = 1000
MIN_FLOW_TIME = 0.1


class Process(nn.Module):
    """A way to noise pictures, a training target, and the sampler that belongs to them."""

    def mix(self, pictures: Pictures, noise: Pictures, time: Times) -> tuple[Pictures, Times]:
        """Return x_t and the time step to tell the network."""
        raise NotImplementedError

    def loss(self, prediction: Pictures, pictures: Pictures, noise: Pictures, time: Times) -> Times:
        """Return every sample's mean squared error, weighted by time."""
        raise NotImplementedError

    def sample(self, predict: Predictor, noise: Pictures, num_steps: int) -> Pictures:
        """Integrate from pure noise to a picture."""
        raise NotImplementedError


class FlowSample(Process):
    """Rectified flow whose network predicts x_0.

    The error is that of the velocity v = eps - x_0 = (x_t - x_0) / t, so it is weighted by 1 / t^2, with t held
    above 0.1.
    """

    def mix(self, pictures: Pictures, noise: Pictures, time: Times) -> tuple[Pictures, Times]:
        """Return x_t = (1 - t) x_0 + t eps."""
        return torch.lerp(pictures, noise, _per_picture(time)), time * NUM_TIMESTEPS

    def loss(self, prediction: Pictures, pictures: Pictures, noise: Pictures, time: Times) -> Times:
        """Return |x_0 - prediction|^2 / max(t, 0.1)^2."""
        return _mean_square(prediction - pictures) / time.clamp_min(MIN_FLOW_TIME).square()

    def sample(self, predict: Predictor, noise: Pictures, num_steps: int) -> Pictures:
        """Take Euler steps along v = (x_t - x_0) / t."""
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS)
        times = torch.linspace(1.0, 1.0 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=times.tolist(), device=noise.device)
        x_t = noise
        for t, timestep in zip(times.tolist(), scheduler.timesteps, strict=True):
            x_0 = predict(x_t, timestep).clamp(-1, 1)
            x_t = scheduler.step((x_t - x_0) / t, timestep, x_t, return_dict=False)[0]
        return x_t


class Ddpm(ExactBuffers, Process):
    """Variance-preserving diffusion with the cosine schedule, sampled by DDIM.

    Predicting x_0, the error is weighted by min(SNR, 5) (Hang et al. 2023); predicting v = a eps - b x_0
    (Salimans and Ho 2022), by 1.
    """

    alphas_cumprod: Tensor

    def __init__(self, prediction_type: str) -> None:
        """Take the schedule from diffusers; `prediction_type` is in its words, sample or v_prediction."""
        super().__init__()
        self._prediction_type = prediction_type
        self.register_buffer("alphas_cumprod", self._scheduler().alphas_cumprod.clone(), persistent=False)

    def mix(self, pictures: Pictures, noise: Pictures, time: Times) -> tuple[Pictures, Times]:
        """Return x_t = a_t x_0 + b_t eps."""
        a, b = self._scales(time)
        return a * pictures + b * noise, self._index(time).to(time.dtype)

    def loss(self, prediction: Pictures, pictures: Pictures, noise: Pictures, time: Times) -> Times:
        """Return the weighted error of x_0 or of v."""
        a, b = self._scales(time)
        if self._prediction_type == "v_prediction":
            return _mean_square(prediction - (a * noise - b * pictures))
        snr = (a / b).square().flatten()
        return _mean_square(prediction - pictures) * snr.clamp_max(5.0)

    def sample(self, predict: Predictor, noise: Pictures, num_steps: int) -> Pictures:
        """Take deterministic DDIM steps."""
        scheduler = self._scheduler()
        scheduler.set_timesteps(num_steps, device=noise.device)
        x_t = noise
        for timestep in scheduler.timesteps:
            x_t = scheduler.step(predict(x_t, timestep.to(x_t.dtype)), timestep, x_t, return_dict=False)[0]
        return x_t

    def _scheduler(self) -> DDIMScheduler:
        return DDIMScheduler(
            num_train_timesteps=NUM_TIMESTEPS,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=self._prediction_type,
            timestep_spacing="trailing",
        )

    def _index(self, time: Times) -> Tensor:
        return (time * NUM_TIMESTEPS).long().clamp(0, NUM_TIMESTEPS - 1)

    def _scales(self, time: Times) -> tuple[Tensor, Tensor]:
        abar = _per_picture(self.alphas_cumprod[self._index(time)])
        return abar.sqrt(), (1 - abar).sqrt()


def make_process(parametrization: Parametrization) -> Process:
    """Build the process that a configuration names."""
    if parametrization == "flow_sample":
        return FlowSample()
    return Ddpm("sample" if parametrization == "ddpm_sample" else "v_prediction")


def _per_picture(values: Times) -> Float[Tensor, "batch 1 1 1"]:
    return values[:, None, None, None]


def _mean_square(error: Pictures) -> Times:
    return error.square().mean(dim=(1, 2, 3))
