"""StyleGAN2's residual discriminator with a projection onto the embedding.

Papers: StyleGAN2 (arXiv 1912.04958); Miyato and Koyama, Projection discriminator (arXiv 1802.05637, eq. 5); Lafite
(arXiv 2111.13792), whose discriminator has features in the embedding's space; Progressive growing
(arXiv 1710.10196), section 3, for the std among images.

Symbols: x = image: [batch, 3, height, width]; u = standardized embedding: [batch, embed]; phi = features of x.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.stylegan2.layers import Resample, ScaledConv, ScaledLinear, activate, recomputed
from models.decoders.stylegan2.spec import DiscriminatorSpec

Images = Float[Tensor, "batch 3 height width"]
Maps = Float[Tensor, "batch channel row column"]


class DiscriminatorOutput(NamedTuple):
    """The discriminator's output for each image."""

    logits: Float[Tensor, " batch"]
    """Above 0: more likely true than generated."""
    features: Float[Tensor, "batch embed"]
    """A guess at the direction of the embedding."""
    maps: tuple[Maps, ...]
    """Its features of the image at each of its grids."""


class Discriminator(nn.Module):
    """Scores whether an image is true and shows its embedding: D(x, u) = psi(phi) + <u, V phi> / sqrt(embed)."""

    def __init__(self, spec: DiscriminatorSpec) -> None:
        super().__init__()
        self.spec = spec
        network = spec.network
        rate, widths = network.rate, network.channels
        self.from_rgb = ScaledConv(3 * network.patch_size**2, widths[-1], 1, rate=rate)
        self.levels = nn.ModuleList(
            ResidualLevel(widths[level], widths[level - 1], rate=rate) for level in reversed(range(1, len(widths)))
        )
        cells = (spec.resolution // network.patch_size // 2 ** (len(widths) - 1)) ** 2
        self.last = ScaledConv(widths[0] + bool(network.std_group), widths[0], 3, rate=rate)
        self.flat = ScaledLinear(widths[0] * cells, network.feature_dim, rate=rate)
        self.score = ScaledLinear(network.feature_dim, 1, rate=rate)
        self.project = ScaledLinear(network.feature_dim, spec.embed_dim, rate=rate)
        self.gradient_checkpointing = False

    def forward(self, images: Images, u: Float[Tensor, "batch embed"]) -> DiscriminatorOutput:
        """Return scores and features of each image beside its embedding."""
        x = F.pixel_unshuffle(images, self.spec.network.patch_size).contiguous(memory_format=torch.channels_last)
        x = activate(self.from_rgb(x))
        maps = [x]
        for level in self.levels:
            x = recomputed(level, x) if self.gradient_checkpointing else level(x)
            maps.append(x)
        if self.spec.network.std_group:
            x = append_std(x, self.spec.network.std_group)
        phi = activate(self.flat(activate(self.last(x)).flatten(1)))
        features = self.project(phi).float()
        u = u.float()
        projection = (u * features).sum(dim=1) / math.sqrt(u.shape[1])
        return DiscriminatorOutput(self.score(phi).float().squeeze(1) + projection, features, tuple(maps))


class ResidualLevel(nn.Module):
    """Two convolutions beside a skip, to half the grid."""

    def __init__(self, num_in: int, num_out: int, *, rate: float) -> None:
        super().__init__()
        self.conv = ScaledConv(num_in, num_in, 3, rate=rate)
        self.down = ScaledConv(num_in, num_out, 3, rate=rate, down=True)
        self.halve = Resample(up=False)
        self.skip = ScaledConv(num_in, num_out, 1, rate=rate)

    def forward(self, x: Maps) -> Maps:
        """Return the smaller grid."""
        through = activate(self.down(activate(self.conv(x))))
        joined: Maps = (through + self.skip(self.halve(x))) / math.sqrt(2.0)
        return joined


def append_std(x: Maps, group: int) -> Maps:
    """Append a channel with the images' mean std within their group, so that sameness shows.

    Every `group`-th image belongs together; where the batch is smaller or does not divide, groups are smaller.
    """
    size = math.gcd(group, len(x))
    grouped = x.float().reshape(size, -1, *x.shape[1:])  # [member, group, channel, row, column]
    std = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [group]
    channel = std.to(x.dtype).repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)
