"""A checker that reads scenes off images by the rules of their rendering; nothing in it is learned.

It takes the median of the image for the background and the distance from it for the silhouette,
slides the renderer's own silhouettes over that, and names the color under the best fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from models.scenes.scene import Scene
from models.scenes.shapes import coverage
from models.scenes.vocabulary import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(name for tints in BACKGROUNDS.values() for name in tints),
}
_TINTS: Final[tuple[tuple[int, int, int], ...]] = tuple(
    tint for tints in BACKGROUNDS.values() for tint in tints.values()
)
_SCALES: Final[tuple[float, ...]] = (0.95, 1.0, 1.05)
_SHADOW: Final[float] = 45.0
_CHUNK: Final[int] = 64  # more take more memory, and fewer leave the heap in pieces that are not given back


@dataclass(frozen=True)
class SceneReading:
    """What the checker read off each image, as indices into the vocabulary's word lists."""

    indices: dict[str, Int[Tensor, " batch"]]
    fit: Float[Tensor, " batch"]
    """Correlation of the image's silhouette with the best template; a clean rendering has 0.95."""

    def words(self, attribute: str) -> list[str]:
        """Return one attribute of every image as words."""
        return [_WORDS[attribute][index] for index in self.indices[attribute].tolist()]

    def matches(self, attribute: str, expected: Sequence[str]) -> Bool[Tensor, " batch"]:
        """Return which images show the expected words of one attribute."""
        wanted = torch.tensor([_WORDS[attribute].index(word) for word in expected])
        return self.indices[attribute] == wanted


class SceneChecker:
    """Reads shape, color, size, position and background off images of one resolution."""

    def __init__(self, resolution: int = 64) -> None:
        """Render the templates: every shape and size, at three scales each."""
        self.resolution = resolution
        silhouettes = torch.cat([self._render(shape) for shape in SHAPES])
        self._silhouettes = silhouettes  # shape-major, then size, then scale: [template, h, w]
        self._spectra = torch.fft.rfft2(_normalize(silhouettes))
        self._palette = torch.tensor(list(COLORS.values())).float()
        self._tints = torch.tensor(_TINTS).float()
        self._centers = torch.tensor(list(POSITIONS.values()))

    def check(self, images: UInt8[Tensor, "batch height width 3"]) -> SceneReading:
        """Read every image; one that is no scene gets a reading with a low fit."""
        expected = (self.resolution, self.resolution, 3)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"SceneChecker.check: found images of {tuple(images.shape[1:])}: "
                f"expected {expected}: build the checker with the images' resolution"
            )
        chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
        parts = [self._check_chunk(chunk.float()) for chunk in chunks or [images]]
        names = parts[0].indices
        return SceneReading(
            indices={name: torch.cat([part.indices[name] for part in parts]) for name in names},
            fit=torch.cat([part.fit for part in parts]),
        )

    def matches(
        self, images: UInt8[Tensor, "batch height width 3"], scenes: Sequence[Scene]
    ) -> dict[str, Bool[Tensor, " batch"]]:
        """Return for each attribute which images show that of their scene."""
        reading = self.check(images)
        return {name: reading.matches(name, [scene.attributes[name] for scene in scenes]) for name in reading.indices}

    def _render(self, shape: str) -> Float[Tensor, "template height width"]:
        radii = torch.tensor([radius * scale for radius in SIZES.values() for scale in _SCALES])
        return coverage(shape, torch.full((len(radii), 2), 0.5), radii, self.resolution)

    def _check_chunk(self, images: Float[Tensor, "batch height width 3"]) -> SceneReading:
        tint = images.flatten(1, 2).median(dim=1).values  # the shape covers a tenth: [batch, 3]
        contrast = (images - tint[:, None, None]).norm(dim=-1)  # [batch, height, width]
        strong = torch.maximum(contrast.flatten(1).quantile(0.98, dim=1), torch.tensor(_SHADOW))
        silhouette = ((contrast - _SHADOW) / strong[:, None, None]).clamp(0, 1)
        fit, template, shift = self._slide(silhouette)
        color = self._color(images, silhouette, template, shift)
        num_per_shape = len(SIZES) * len(_SCALES)
        center = (shift + self.resolution / 2).remainder(self.resolution) / self.resolution
        return SceneReading(
            indices={
                "shape": template // num_per_shape,
                "color": torch.cdist(color, self._palette).argmin(dim=1),
                "size": template % num_per_shape // len(_SCALES),
                "position": torch.cdist(center, self._centers).argmin(dim=1),
                "background": torch.cdist(tint, self._tints).argmin(dim=1),
            },
            fit=fit,
        )

    def _slide(
        self, silhouette: Float[Tensor, "batch height width"]
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"], Int[Tensor, "batch 2"]]:
        """Correlate with every template at every shift (by FFT) and keep the best."""
        spectrum = torch.fft.rfft2(_normalize(silhouette))
        products = spectrum[:, None] * self._spectra.conj()[None]
        side = self.resolution
        scores = torch.fft.irfft2(products, s=(side, side)).flatten(1)  # [batch, template * h * w]
        fit, best = scores.max(dim=1)
        template, pixel = best // side**2, best % side**2
        return fit, template, torch.stack([pixel // side, pixel % side], dim=1)

    def _color(
        self,
        images: Float[Tensor, "batch height width 3"],
        silhouette: Float[Tensor, "batch height width"],
        template: Int[Tensor, " batch"],
        shift: Int[Tensor, "batch 2"],
    ) -> Float[Tensor, "batch 3"]:
        """Average the image over the shape, where its silhouette and the best template agree."""
        ticks = torch.arange(self.resolution)
        rows = (ticks - shift[:, :1]).remainder(self.resolution)  # undo the shift: [batch, height]
        columns = (ticks - shift[:, 1:]).remainder(self.resolution)
        placed = self._silhouettes[template[:, None, None], rows[:, :, None], columns[:, None]]
        weight = (placed * silhouette).square() + 1e-6
        weight = weight / weight.sum(dim=(1, 2), keepdim=True)
        return (images * weight[..., None]).sum(dim=(1, 2))


def _normalize(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Give every map mean 0 and length 1, so that products are correlations."""
    centered = maps - maps.mean(dim=(1, 2), keepdim=True)
    length = centered.flatten(1).norm(dim=1)[:, None, None]
    normalized: Tensor = centered / (length + 1e-6)
    return normalized
