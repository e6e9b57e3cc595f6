"""How often images of scenes show the color and the shape that were asked for, as the scene checker reads them.

Symbols: asked = what a prompt says, read = what the checker saw, as positions in the vocabulary: [batch].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from models.scenes.checker import SceneChecker
from models.scenes.scene import Scene
from models.scenes.vocabulary import COLORS, SHAPES

WORDS: Mapping[str, tuple[str, ...]] = {"color": tuple(COLORS), "shape": SHAPES}
CHANCE = {"color": 1 / len(COLORS), "shape": 1 / len(SHAPES), "both": 1 / (len(COLORS) * len(SHAPES))}


@dataclass(frozen=True)
class Readings:
    """Color and shape of every image, as asked and as read."""

    asked: Mapping[str, Int[Tensor, " batch"]]
    read: Mapping[str, Int[Tensor, " batch"]]

    def hits(self) -> dict[str, Bool[Tensor, " batch"]]:
        """Tell which images show the color, the shape, and both."""
        color, shape = (self.read[name] == self.asked[name] for name in ("color", "shape"))
        return {"color": color, "shape": shape, "both": color & shape}

    def accuracy(self) -> dict[str, float]:
        """Return the fraction of images that show what was asked."""
        return {name: float(hit.double().mean()) for name, hit in self.hits().items()}

    def unrelated_accuracy(self) -> dict[str, float]:
        """Return the accuracy against other prompts: the mean over ALL pairs of an image and another's prompt."""
        count = len(self.asked["color"])
        if count < 2:
            raise ValueError(f"unrelated prompts need at least 2 images, found {count}")
        own = self.hits()
        codes = {name: (self.read[name], self.asked[name]) for name in WORDS}
        codes["both"] = (_both(self.read), _both(self.asked))
        matches = {name: _equal_pairs(*sides) for name, sides in codes.items()}
        return {name: (matches[name] - int(hit.sum())) / (count * (count - 1)) for name, hit in own.items()}

    def confusion(self, name: str) -> Float[Tensor, "asked read"]:
        """Return for each word asked how often each word was read (rows add up to 1, or 0 where it was not asked)."""
        size = len(WORDS[name])
        pairs = self.asked[name] * size + self.read[name]
        counts = torch.bincount(pairs, minlength=size * size).view(size, size).double()
        return counts / counts.sum(1, keepdim=True).clamp_min(1)

    def accuracy_by_pair(self) -> Float[Tensor, "shape color"]:
        """Return how often both are right, for each shape and color asked; NaN where it was not asked."""
        cell = _both(self.asked)
        num_cells = len(SHAPES) * len(COLORS)
        asked = torch.bincount(cell, minlength=num_cells)
        right = torch.bincount(cell, weights=self.hits()["both"].double(), minlength=num_cells)
        return (right / asked).view(len(SHAPES), len(COLORS))


def _both(words: Mapping[str, Int[Tensor, " batch"]]) -> Int[Tensor, " batch"]:
    """Return shape and color as one number."""
    return words["shape"] * len(COLORS) + words["color"]


def _equal_pairs(read: Int[Tensor, " batch"], asked: Int[Tensor, " batch"]) -> int:
    """Return in how many of all pairs of an image and a prompt the word read is the word asked."""
    size = len(COLORS) * len(SHAPES)
    return int((torch.bincount(read, minlength=size) * torch.bincount(asked, minlength=size)).sum())


def read_scenes(images: UInt8[np.ndarray, "batch height width 3"], scenes: Sequence[Scene]) -> Readings:
    """Let the scene checker read the images of these scenes."""
    reading = SceneChecker(images.shape[1]).check(torch.from_numpy(images))
    asked = {
        name: torch.tensor([words.index(scene.attributes[name]) for scene in scenes]) for name, words in WORDS.items()
    }
    return Readings(asked, {name: reading.indices[name].long() for name in WORDS})
