"""How the error of a prediction is weighted by time.

Papers: Shifted Diffusion (arXiv 2211.15388), method eq. 7; P2 (arXiv 2204.00227), eq. 8; Min-SNR (arXiv 2303.09556),
section 3.4; Common diffusion noise schedules and sample steps are flawed (arXiv 2305.08891).

Symbols: S = SNR_t = a_t^2 / b_t^2; w = weight of the target's own mean squared error: [batch].

On the path ddpm, errors of one and the same prediction are related, in every dimension, by

    |u_0 error|^2 = |noise error|^2 / S = |velocity error|^2 / (1 + S),      x_0 error = Sigma^(1/2) u_0 error

so that each pair of target and weight is a weight on the error of u_0 (in brackets):

    target      p2                       min_snr                                uniform
    sample      1 / (1 + S)  [the same]  min(S, gamma)            [the same]    1  [1]
    noise       1 / (1 + S)  [abar_t]    min(S, gamma) / S        [as sample]   1  [S]
    velocity    1 / (1 + S)  [1]         min(S, gamma) / (1 + S)  [as sample]   1  [1 + S]

p2 with target sample is method eq. 7. The very same objective on the noise would be the weight (1 - abar_t)^2 / abar_t,
which is huge near T; so p2 weights each target's own error by 1 / (1 + S), as P2 does. With a terminal SNR of zero,
min_snr is min(S + 1, gamma), since the last step would not be learned otherwise.

On the path flow the error is always that of the velocity: (x_0 error / t)^2, times t^p (p = time_power, 0 unless the
settings say so), with t held above 0.1.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from models.diffusion.processes import STANDARD, Gaussian, Process, Samples, Times
from models.diffusion.spec import LossWeight, Target
from models.diffusion.targets import true_target

MIN_FLOW_TIME = 0.1


def denoising_loss(
    process: Process, prediction: Samples, x_0: Samples, noise: Samples, t: Times, *, gaussian: Gaussian = STANDARD
) -> Float[Tensor, " batch"]:
    """Return each sample's mean squared error of the process's target, weighted by time."""
    spec = process.spec
    expected = true_target(process, spec.target, x_0, noise, t, gaussian=gaussian)
    error = (prediction - expected).square().mean(dim=tuple(range(1, x_0.ndim)))  # in the layout of the prediction
    if spec.path == "flow":
        power = (spec.time_power or 0.0) - (2.0 if spec.target == "sample" else 0.0)
        return error * t.clamp_min(MIN_FLOW_TIME).pow(power) if power else error
    weight = loss_weight(process, spec.target, spec.loss_weight, t, min_snr_gamma=spec.min_snr_gamma)
    return weight.to(error.dtype) * error


def loss_weight(
    process: Process, target: Target, weight: LossWeight, t: Times, *, min_snr_gamma: float
) -> Float[Tensor, " batch"]:
    """Return w (see the table above) in the precision of the schedule."""
    if weight == "p2":
        return process.squares(t)[1]  # = 1 / (1 + S)
    snr = process.snr(t)
    if weight == "uniform":
        return torch.ones_like(snr)
    clipped = (snr + 1 if process.spec.zero_terminal_snr else snr).clamp_max(min_snr_gamma)
    if target == "sample":
        return clipped
    return clipped / (snr if target == "noise" else snr + 1)
