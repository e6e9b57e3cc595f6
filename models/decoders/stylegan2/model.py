"""StyleGAN2's generator with a CLIP image embedding in its style path: noise and an embedding to an image.

Papers: StyleGAN2 (arXiv 1912.04958), the generator with output skips; StyleGAN2-ADA (arXiv 2006.06676), whose
mapping network takes a condition beside the noise; Lafite (arXiv 2111.13792), whose layers each see the condition
again in their style.

Symbols: z = CLIP image embedding; u = (z - mean) / std: [batch, embed]; n = noise: [batch, latent];
w = what the mapping network makes of both: [batch, style]; e = two layers of u: [batch, condition].
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text, require_seeds
from models.decoders.sampling import DecoderSampling
from models.decoders.stylegan2.layers import ModulatedConv, Resample, ScaledLinear, activate, recomputed
from models.decoders.stylegan2.spec import StyleGan2Spec
from models.noise import SeededNoise, seeded_noise
from models.normalization import Normalization

Styles = Float[Tensor, "batch style"]
Maps = Float[Tensor, "batch channel row column"]

_MEAN_SAMPLES = 32


class StyleGan2Generator(Decoder):
    """Generates an image in one pass."""

    spec: StyleGan2Spec

    def __init__(self, spec: StyleGan2Spec) -> None:
        super().__init__()
        self.spec = spec
        self.standardizer = Normalization(spec.embed_dim)
        self.mapping = MappingNetwork(spec)
        self.synthesis = SynthesisNetwork(spec)

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and std; they are saved with the weights."""
        self.standardizer.set_statistics(mean, std)

    def forward(self, latent: Float[Tensor, "batch latent"], embeddings: Embeddings, noise: Tensor) -> Images:
        """Generate an image for each noise n and embedding z; `noise` [batch, noise_size] is that of the layers."""
        u = self.standardizer.normalize(embeddings)
        images: Images = self.synthesis(self.mapping(latent, u), u, noise)
        return images

    @property
    def noise_size(self) -> int:
        """Numbers that the layers' noise takes for each image."""
        return self.synthesis.noise_size

    @torch.no_grad()
    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate one image in [-1, 1] per embedding; it depends on its own embedding and seed alone.

        Of `sampling` it reads the truncation: a generator takes one pass, and knows no guidance.
        """
        require_seeds(embeddings, seeds)
        stream = SeededNoise(seeds)
        latent = stream.normal((self.spec.network.latent_dim,), embeddings.device)
        noise = stream.normal((self.noise_size,), embeddings.device)
        u = self.standardizer.normalize(embeddings)
        w = self.mapping(latent, u)
        if sampling.truncation != 1.0:
            w = torch.lerp(self._mean_style(u), w, sampling.truncation)
        images: Images = self.synthesis(w, u, noise).clamp(-1, 1)
        return images

    def _mean_style(self, u: Embeddings) -> Styles:
        """Return each embedding's mean w over a few fixed samples of n: what truncation pulls towards."""
        latents = seeded_noise(range(_MEAN_SAMPLES), (self.spec.network.latent_dim,), u.device)
        total = torch.stack([self.mapping(latent.expand(len(u), -1), u) for latent in latents])
        return total.mean(dim=0)


class MappingNetwork(nn.Module):
    """Noise and embedding to w."""

    def __init__(self, spec: StyleGan2Spec) -> None:
        super().__init__()
        self.embed = ScaledLinear(spec.embed_dim, spec.network.latent_dim)
        widths = [2 * spec.network.latent_dim] + [spec.network.style_dim] * spec.network.mapping_layers
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(ScaledLinear(a, b, rate=spec.network.mapping_rate) for a, b in pairs)

    def forward(self, latent: Float[Tensor, "batch latent"], u: Embeddings) -> Styles:
        """Return w; noise and embedding enter with the same length."""
        x = torch.cat([_unit_variance(latent), _unit_variance(self.embed(u))], dim=1)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class SynthesisNetwork(nn.Module):
    """Styles to an image, from the smallest grid to the largest, each adding to the image so far."""

    def __init__(self, spec: StyleGan2Spec) -> None:
        super().__init__()
        self._spec = spec
        widths, grids = spec.network.channels, spec.grids
        self._smallest = (widths[0], grids[0], grids[0])
        cells = widths[0] * grids[0] ** 2
        if spec.network.start == "constant":
            self.start = nn.Parameter(torch.randn(self._smallest))
        else:
            self.layout = nn.Sequential(
                ScaledLinear(spec.embed_dim, spec.network.style_dim),
                _Activation(),
                ScaledLinear(spec.network.style_dim, cells),
            )
        self.condition = _condition_network(spec)
        self.levels = nn.ModuleList(
            SynthesisLevel(spec, widths[max(level - 1, 0)], width, grid, up=level > 0)
            for level, (width, grid) in enumerate(zip(widths, grids, strict=True))
        )
        self.upsample = Resample(up=True)
        self.gradient_checkpointing = False

    @property
    def noise_size(self) -> int:
        """Numbers that the layers' noise takes for each image; 0 where they take none."""
        return sum(self._noise_sizes)

    @property
    def _noise_sizes(self) -> list[int]:
        counts = [1 if level == 0 else 2 for level in range(len(self._spec.grids))]
        per_cell = int(self._spec.network.layer_noise)
        return [per_cell * count * grid**2 for count, grid in zip(counts, self._spec.grids, strict=True)]

    def forward(self, w: Styles, u: Embeddings, noise: Float[Tensor, "batch noise"]) -> Images:
        """Return the image."""
        style = w if self.condition is None else torch.cat([w, self.condition(u)], dim=1)
        x = self._first(u).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for level, part in zip(self.levels, torch.split(noise, self._noise_sizes, dim=1), strict=True):
            x, rgb = recomputed(level, x, style, part) if self.gradient_checkpointing else level(x, style, part)
            image = rgb if image is None else self.upsample(image) + rgb
        assert image is not None  # a spec has at least one level
        return image

    def _first(self, u: Embeddings) -> Maps:
        if self._spec.network.start == "constant":
            return self.start.expand(len(u), -1, -1, -1)
        layout: Maps = self.layout(u).view(-1, *self._smallest)
        return layout


class SynthesisLevel(nn.Module):
    """The layers of one grid, and what they add to the image."""

    def __init__(self, spec: StyleGan2Spec, num_in: int, num_out: int, grid: int, *, up: bool) -> None:
        """Build one layer for the smallest grid, two for the others."""
        super().__init__()
        style = spec.network.style_dim + spec.network.condition_dim
        self._grid, self._patch = grid, spec.network.patch_size
        first = StyledLayer(style, num_in, num_out, up=up, noise=spec.network.layer_noise)
        rest = [StyledLayer(style, num_out, num_out, noise=spec.network.layer_noise)] if up else []
        self.layers = nn.ModuleList([first, *rest])
        self.to_rgb = ToRGB(style, num_out, spec.network.patch_size)

    def forward(self, x: Maps, style: Tensor, noise: Float[Tensor, "batch noise"]) -> tuple[Maps, Images]:
        """Return the grid's features and the image made of them."""
        shape = (-1, len(self.layers), 1, self._grid, self._grid)
        parts = noise.reshape(shape).unbind(1) if noise.shape[1] else ()
        for index, layer in enumerate(self.layers):
            x = layer(x, style, parts[index] if parts else None)
        return x, self.to_rgb(x, style)


class StyledLayer(nn.Module):
    """Style, modulated 3 x 3 convolution, noise, bias, activation."""

    def __init__(self, style_dim: int, num_in: int, num_out: int, *, up: bool = False, noise: bool) -> None:
        super().__init__()
        self.affine = ScaledLinear(style_dim, num_in, bias=1.0)
        self.conv = ModulatedConv(num_in, num_out, 3, up=up)
        self.bias = nn.Parameter(torch.zeros(num_out))
        self.strength = nn.Parameter(torch.zeros(1)) if noise else None

    def forward(self, x: Maps, style: Tensor, noise: Tensor | None) -> Maps:
        """Return the layer's features."""
        x = self.conv(x, self.affine(style))
        if self.strength is not None and noise is not None:
            x = x + (noise * self.strength).to(x.dtype)
        return activate(x + self.bias[:, None, None].to(x.dtype))


class ToRGB(nn.Module):
    """A 1 x 1 modulated convolution to pixels: one per cell, or a patch of them."""

    def __init__(self, style_dim: int, num_in: int, patch_size: int) -> None:
        super().__init__()
        self._patch = patch_size
        self.affine = ScaledLinear(style_dim, num_in, bias=1.0)
        self.conv = ModulatedConv(num_in, 3 * patch_size**2, 1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3 * patch_size**2))

    def forward(self, x: Maps, style: Tensor) -> Images:
        """Return what is added to the image, in single precision."""
        cells = self.conv(x, self.affine(style)).float() + self.bias.float()[:, None, None]
        return F.pixel_shuffle(cells, self._patch)


class _Activation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return activate(x)


def _condition_network(spec: StyleGan2Spec) -> nn.Sequential | None:
    width = spec.network.condition_dim
    if width == 0:
        return None
    return nn.Sequential(ScaledLinear(spec.embed_dim, width), _Activation(), ScaledLinear(width, width), _Activation())


def _unit_variance(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Divide by the root mean square, in single precision."""
    x = x.float()
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
