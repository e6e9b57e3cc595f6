"""The layers of StyleGAN2: weights scaled at run time, modulated convolution, and resampling by an FIR filter.

Papers: Karras et al., Progressive growing (arXiv 1710.10196), section 4.1, for the scaled weights; StyleGAN2
(arXiv 1912.04958), section 2.2, equations 1 and 3, for modulation and demodulation; Zhang (arXiv 1904.11486) for the
filter. Everything is a native operation, so that gradients of gradients work everywhere.

Symbols: s = style, a factor for each input channel: [batch, in]; w = weights: [out, in, k, k].
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Maps = Float[Tensor, "batch channel row column"]

SLOPE = 0.2
GAIN = math.sqrt(2.0)
_TAPS = (1.0, 3.0, 3.0, 1.0)
_EPSILON = 1e-8


def recomputed(module: nn.Module, *inputs: Tensor) -> Any:
    """Call a module and keep nothing for the backward pass but its inputs: the rest is computed again there.

    Chen et al., Training deep nets with sublinear memory cost (arXiv 1604.06174). Gradients of gradients work, too.
    """
    return checkpoint(module, *inputs, use_reentrant=False) if torch.is_grad_enabled() else module(*inputs)


def activate(x: Tensor) -> Tensor:
    """Return the leaky ReLU times sqrt(2), which keeps the variance."""
    activated: Tensor = F.leaky_relu(x, SLOPE) * GAIN
    return activated


class ScaledLinear(nn.Module):
    """A linear layer with stored weights of std 1 / rate, scaled by rate / sqrt(in) where they are used.

    Adam's steps have the same size for all stored weights, so `rate` is the layer's relative learning rate.
    """

    def __init__(self, num_in: int, num_out: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        """Initialise the weights; the bias is effectively `bias`."""
        super().__init__()
        self._rate = rate
        self._scale = rate / math.sqrt(num_in)
        self.weight = nn.Parameter(torch.randn(num_out, num_in) / rate)
        self.bias = nn.Parameter(torch.full((num_out,), bias / rate))

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        """Return x W^T + b."""
        return F.linear(x, self.weight * self._scale, self.bias * self._rate)


class ScaledConv(nn.Module):
    """A convolution with run-time scaling; `down` filters and halves the grid."""

    def __init__(self, num_in: int, num_out: int, kernel: int, *, rate: float = 1.0, down: bool = False) -> None:
        super().__init__()
        self._rate = rate
        self._scale = rate / math.sqrt(num_in * kernel**2)
        self._kernel = kernel
        self._down = Blur(extra=kernel - 1) if down else None
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel, kernel) / rate)
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, x: Maps) -> Maps:
        """Convolve; without `down` the grid stays as it is."""
        weight, bias = self.weight * self._scale, self.bias * self._rate
        if self._down is not None:
            return F.conv2d(self._down(x), weight, bias, stride=2)
        return F.conv2d(x, weight, bias, padding=self._kernel // 2)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output is brought back to variance 1.

    Scaling weights for each sample (StyleGAN2 eq. 1) is scaling the input, and dividing by the weights' norm
    (eq. 3) is dividing the output, so all samples share one convolution:

        y = conv(x * s, w) * d,   d_o = 1 / sqrt( sum_{i,k} (s_i w_oik)^2 + 1e-8 )
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, *, up: bool = False, demodulate: bool = True) -> None:
        """Initialise the weights; `up` doubles the grid, by a transposed convolution and the filter."""
        super().__init__()
        self._scale = 1.0 / math.sqrt(num_in * kernel**2)
        self._kernel = kernel
        self._demodulate = demodulate
        self._up = Blur(extra=kernel - 3, gain=4.0) if up else None
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel, kernel))

    def forward(self, x: Maps, style: Float[Tensor, "batch in"]) -> Maps:
        """Convolve every sample under its own style."""
        weight = self.weight * self._scale
        x = x * style[:, :, None, None].to(x.dtype)
        if self._up is not None:
            x = self._up(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self._kernel // 2)
        if not self._demodulate:
            return x
        return x * demodulation(weight, style)[:, :, None, None].to(x.dtype)


def demodulation(weight: Float[Tensor, "out in k k"], style: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
    """Return d of StyleGAN2 eq. 3 in single precision, for sums of squares lose too many digits in bf16."""
    with torch.autocast(weight.device.type, enabled=False):
        energy = weight.float().square().sum(dim=(2, 3))  # sum_k w_oik^2: [out, in]
        return (style.float().square() @ energy.T + _EPSILON).rsqrt()


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] in both directions, channel by channel.

    `extra` widens the result: by 0 the grid shrinks by one cell; `gain` makes up for cells that were filled with zeros.
    """

    kernel: Tensor

    def __init__(self, *, extra: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        self._padding = 1 + extra // 2
        self.register_buffer("kernel", _filter(gain), persistent=False)

    def forward(self, x: Maps) -> Maps:
        """Filter every channel."""
        return _by_channel(x, self.kernel, self._padding)


class Resample(nn.Module):
    """Doubles or halves images by the filter."""

    kernel: Tensor

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self._up = up
        self.register_buffer("kernel", _filter(4.0 if up else 1.0), persistent=False)

    def forward(self, x: Maps) -> Maps:
        """Return the grid at twice or half the size."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        if self._up:
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])
        # every second cell of the whole: the gradient of a strided convolution by channel is slow in bf16 on CPUs
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])[:, :, ::2, ::2]


def _by_channel(x: Maps, kernel: Float[Tensor, "1 1 k k"], padding: int) -> Maps:
    return F.conv2d(x, kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1), padding=padding, groups=x.shape[1])


def _filter(gain: float) -> Float[Tensor, "1 1 4 4"]:
    taps = torch.tensor(_TAPS)
    kernel = torch.outer(taps, taps)
    return (gain * kernel / kernel.sum())[None, None]
