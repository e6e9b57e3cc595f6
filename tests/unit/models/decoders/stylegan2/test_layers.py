"""StyleGAN2's layers against their definitions, written out sample by sample."""

import pytest
import torch
from torch.nn import functional as F

from models.decoders.stylegan2.layers import Blur, ModulatedConv, Resample, ScaledConv, ScaledLinear, demodulation


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_is_that_of_each_samples_own_weights(demodulate: bool) -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(4, 5, 3, demodulate=demodulate)
    x, style = torch.randn(3, 4, 6, 6), torch.randn(3, 4)
    explicit = []
    for sample, factors in zip(x, style, strict=True):
        weight = conv.weight / (4 * 9) ** 0.5 * factors[None, :, None, None]  # StyleGAN2 eq. 1
        if demodulate:
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        explicit.append(F.conv2d(sample[None], weight, padding=1))
    torch.testing.assert_close(conv(x, style), torch.cat(explicit))


def test_modulated_upsampling_is_convolution_between_zeros_and_the_filter() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(4, 5, 3, up=True)
    x, style = torch.randn(2, 4, 5, 5), torch.randn(2, 4)
    spread = torch.zeros(2, 4, 11, 11)  # zeros between cells, and one around
    spread[:, :, 1:-1:2, 1:-1:2] = x * style[:, :, None, None]
    weight = conv.weight / 6
    wide = F.conv2d(F.pad(spread, (1, 1, 1, 1)), weight.flip(2, 3))
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    expected = F.conv2d(wide, torch.outer(taps, taps).expand(5, 1, 4, 4), padding=1, groups=5)
    expected = expected * demodulation(weight, style)[:, :, None, None]
    torch.testing.assert_close(conv(x, style), expected)
    assert conv(x, style).shape == (2, 5, 10, 10)


def test_demodulated_features_have_variance_one() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(32, 64, 3)
    out = conv(torch.randn(8, 32, 16, 16), torch.rand(8, 32) * 4 + 0.1)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(out.var(dim=(1, 2, 3)), torch.ones(8), rtol=0.1, atol=0)


def test_demodulation_keeps_its_digits_under_bf16() -> None:
    torch.manual_seed(0)
    weight, style = torch.randn(5, 64, 3, 3), torch.randn(2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = demodulation(weight, style)
    assert torch.equal(lowered, demodulation(weight, style))


def test_resampling_keeps_what_is_flat_and_what_rises_evenly() -> None:
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    half = Resample(up=False)(ramp)
    torch.testing.assert_close(half[:, :, 1:-1, 1:-1], torch.tensor([2.5, 4.5]).expand(1, 2, 2, 2))
    twice = Resample(up=True)(ramp)
    expected = torch.arange(16) / 2 - 0.25
    torch.testing.assert_close(twice[:, :, 2:-2, 2:-2], expected[2:-2].expand(1, 2, 12, 12))


def test_halving_is_filtering_at_every_second_pixel() -> None:
    x = torch.randn(2, 3, 8, 8)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    strided = F.conv2d(x, torch.outer(taps, taps).expand(3, 1, 4, 4), stride=2, padding=1, groups=3)
    torch.testing.assert_close(Resample(up=False)(x), strided)


def test_blur_pads_as_asked() -> None:
    x = torch.ones(1, 1, 7, 7)
    assert Blur()(x).shape[-1] == 6
    assert Blur(extra=2)(x).shape[-1] == 8
    assert ScaledConv(1, 2, 3, down=True)(torch.ones(1, 1, 8, 8)).shape == (1, 2, 4, 4)


def test_the_rate_scales_steps_and_not_values() -> None:
    torch.manual_seed(0)
    layers = [ScaledLinear(20, 10, rate=rate, bias=1.0) for rate in (1.0, 0.01)]
    layers[1].weight.data.copy_(layers[0].weight / 0.01)
    x = torch.randn(4, 20)
    before = [layer(x) for layer in layers]
    torch.testing.assert_close(before[0], before[1])
    for layer in layers:  # Adam's first step: the same size for every stored number
        layer(x).sum().backward()
        torch.optim.Adam(layer.parameters(), lr=0.1, fused=True).step()
    moved = [float((layer(x) - y).detach().abs().mean()) for layer, y in zip(layers, before, strict=True)]
    assert moved[1] == pytest.approx(0.01 * moved[0], rel=1e-3)
