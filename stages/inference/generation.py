"""Draw recipes: every way of making an image with a finished system, in one place.

What leads to an embedding is computed for each image by itself, so that it never depends on what is drawn beside it.
The decoder draws batches; a row of a batch depends on its own inputs and on the batch's size, by rounding. So a
image's place is its batch's size and its row: at the same place it comes out the same to the last bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from models.interpolation import slerp
from models.scenes import Scene, render_scenes
from stages.formats.images import square
from stages.inference.requests import (
    ArithmeticRecipe,
    EditRecipe,
    End,
    ImageEnd,
    InterpolationRecipe,
    Recipe,
    SceneRecipe,
    TextRecipe,
    VariationRecipe,
    pack_embedding,
    pack_pixels,
    unpack_embedding,
    unpack_pixels,
)
from stages.inference.text_to_image import Images, TextToImage

KEPT_ENDS = 64
Row = Float[Tensor, "embed"]


@dataclass(frozen=True)
class Place:
    """Where in a batch an image was drawn."""

    size: int
    row: int


@dataclass(frozen=True)
class Generated:
    """An image with where it was drawn."""

    image: UInt8[np.ndarray, "height width 3"]
    place: Place


def generate_images(system: TextToImage, recipes: Sequence[Recipe]) -> list[Generated]:
    """Draw an image for each recipe; those that are edited all to the same strength.

    Raises:
        ValueError: a recipe does not fit the system (another embedding's width, a decoder that cannot edit), or
            recipes of different ways or strengths are mixed.
    """
    if not recipes:
        return []
    maker = _Embedder(system)
    embeddings = torch.stack([maker.embedding(recipe) for recipe in recipes])
    text = torch.stack([maker.text(recipe) for recipe in recipes]) if system.reads_text else None
    images = _decode(system, recipes, embeddings, text)
    places = _places(len(recipes), system.batch_size)
    return [Generated(image, place) for image, place in zip(images, places, strict=True)]


def regenerate(system: TextToImage, recipe: Recipe, place: Place) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a recipe at the place where it was drawn first, in a batch of nothing but itself.

    The system's batches have to be as large (``TextToImage.batch_size``).
    """
    return generate_images(system, [recipe] * place.size)[place.row].image


def image_end(system: TextToImage, image: Image.Image, name: str) -> ImageEnd:
    """Return an image as recipes hold it: by its embedding."""
    embedding = system.encoder.encode_images([image])[0]
    return ImageEnd(name=name, embedding=pack_embedding(embedding.numpy()))


def edit_pixels(system: TextToImage, image: Image.Image) -> str:
    """Return an image as recipes hold it that denoise it: its middle square at the decoder's resolution."""
    return pack_pixels(square(image, system.resolution))


def _decode(system: TextToImage, recipes: Sequence[Recipe], embeddings: Tensor, text: Tensor | None) -> Images:
    seeds = [recipe.seed for recipe in recipes]
    edits = [recipe for recipe in recipes if isinstance(recipe, EditRecipe)]
    if not edits:
        return system.decode_conditional(embeddings, text, seeds)
    strengths = {edit.strength for edit in edits}
    if len(edits) < len(recipes) or len(strengths) > 1:
        raise ValueError(
            f"draw_recipes: found {len(edits)} edits to strengths {sorted(strengths)} among {len(recipes)} recipes: "
            "expected edits to one strength, or none: draw them one after the other"
        )
    sources = np.stack([unpack_pixels(edit.pixels) for edit in edits])
    if sources.shape[1:3] != (system.resolution, system.resolution):
        raise ValueError(
            f"draw_recipes: found images of {sources.shape[2]} x {sources.shape[1]} pixels: expected "
            f"{system.resolution} x {system.resolution}"
        )
    return system.edit(sources, embeddings, text, seeds, strength=strengths.pop())


def _places(num: int, batch_size: int) -> Iterator[Place]:
    for number in range(num):
        first = number - number % batch_size
        yield Place(min(batch_size, num - first), number - first)


class _Embedder:
    """Makes the embeddings of recipes, one at a time; what several recipes share is made once."""

    def __init__(self, system: TextToImage) -> None:
        self._system = system
        self._imagined = lru_cache(maxsize=KEPT_ENDS)(self._imagine)
        self._encoded = lru_cache(maxsize=KEPT_ENDS)(self._encode)

    def embedding(self, recipe: Recipe) -> Row:
        """Return the image embedding that the image is drawn from."""
        match recipe:
            case TextRecipe():
                return self._imagined(recipe.prompt, recipe.seed) if recipe.prior else self._encoded(recipe.prompt)
            case SceneRecipe():
                return self._of_scene(recipe.scene)
            case VariationRecipe():
                return self._end(recipe.image, recipe.seed)
            case InterpolationRecipe():
                start, end = (self._end(one, recipe.seed) for one in (recipe.start, recipe.end))
                return self._between(start, end, recipe.fraction)
            case EditRecipe():
                return self._imagined(recipe.prompt, recipe.seed)
            case ArithmeticRecipe():
                image = self._end(recipe.image, recipe.seed)
                return self._system.move(image[None], [recipe.instead_of], [recipe.prompt], recipe.strength)[0]

    def text(self, recipe: Recipe) -> Row:
        """Return the text embedding that a decoder is told which reads texts; NaN: none."""
        match recipe:
            case TextRecipe() | EditRecipe() | ArithmeticRecipe():
                return self._encoded(recipe.prompt)
            case InterpolationRecipe() if {recipe.start.kind, recipe.end.kind} == {"text"}:
                return self._between(self._encoded(recipe.start.name), self._encoded(recipe.end.name), recipe.fraction)
            case _:
                return torch.full((self._system.encoder.embed_dim,), torch.nan)

    def _end(self, end: End, seed: int) -> Row:
        if not isinstance(end, ImageEnd):
            return self._imagined(end.name, seed)
        embedding = torch.from_numpy(unpack_embedding(end.embedding))
        if len(embedding) != self._system.encoder.embed_dim:
            raise ValueError(
                f"draw_recipes: the image {end.name} has an embedding of width {len(embedding)}: expected "
                f"{self._system.encoder.embed_dim}, as the run's CLIP models make"
            )
        return embedding

    def _between(self, start: Row, end: Row, fraction: float) -> Row:
        block_dims = self._system.encoder.block_dims
        return slerp(start[None], end[None], torch.tensor([fraction], dtype=start.dtype), block_dims)[0]

    def _imagine(self, prompt: str, seed: int) -> Row:
        return self._system.imagine([prompt], [seed])[0]

    def _encode(self, prompt: str) -> Row:
        return self._system.encode([prompt])[0]

    def _of_scene(self, scene: dict[str, Any]) -> Row:
        rendered = render_scenes([Scene(**scene)], self._system.resolution)
        return self._system.encoder.encode_images(rendered)[0]
