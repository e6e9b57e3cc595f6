"""What an image is drawn from besides the models, as data that is written into the image and read back from it.

An image that the user gave is held as its embedding, or, where it is denoised, as its pixels: so an image can be made
again from its own file.
"""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import AfterValidator, Field, NonNegativeInt, TypeAdapter, ValidationError

from stages.contract.config import ConfigModel
from stages.contract.errors import InputFault
from stages.formats.image_grids import to_png

FLOATS = np.dtype("<f4")


def pack_embedding(embedding: Float[np.ndarray, " embed"]) -> str:
    """Return an embedding as text, exactly: base64 of its float32 numbers."""
    return base64.b64encode(np.asarray(embedding, dtype=FLOATS).tobytes()).decode()


def unpack_embedding(packed: str) -> Float[np.ndarray, " embed"]:
    """Return what :func:`pack_embedding` was given.

    Raises:
        ValueError: the text is something else.
    """
    values: Float[np.ndarray, " embed"] = np.frombuffer(_decoded(packed), dtype=FLOATS).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the embedding holds numbers that are not finite")
    return values


def pack_pixels(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Return an image as text, exactly: base64 of a PNG."""
    return base64.b64encode(to_png(Image.fromarray(image))).decode()


def unpack_pixels(packed: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return what :func:`pack_pixels` was given.

    Raises:
        ValueError: the text is something else.
    """
    try:
        with Image.open(io.BytesIO(_decoded(packed)), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be decoded ({error})") from None


def _decoded(packed: str) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"no base64 ({error})") from None


def _embedding(packed: str) -> str:
    unpack_embedding(packed)
    return packed


def _pixels(packed: str) -> str:
    unpack_pixels(packed)
    return packed


class ImageEnd(ConfigModel):
    """An image of the user's, by its CLIP embedding."""

    kind: Literal["image"] = "image"
    name: str = Field(description="what the user called it")
    embedding: Annotated[str, AfterValidator(_embedding)]


class TextEnd(ConfigModel):
    """A prompt, whose embedding the prior draws."""

    kind: Literal["text"] = "text"
    name: str = Field(description="the prompt")


End = Annotated[ImageEnd | TextEnd, Field(discriminator="kind")]


class _Recipe(ConfigModel):
    seed: NonNegativeInt


class TextRecipe(_Recipe):
    """Text to image."""

    mode: Literal["text"] = "text"
    prompt: str
    prior: bool = Field(True, description="false: the text's own embedding stands for an image's")

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return self.prompt


class SceneRecipe(_Recipe):
    """A rendered scene drawn again from its embedding, as evaluation's control set is."""

    mode: Literal["scene"] = "scene"
    prompt: str
    scene: dict[str, Any]

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return self.prompt


class VariationRecipe(_Recipe):
    """What an image's embedding keeps of it, and the rest anew."""

    mode: Literal["variation"] = "variation"
    image: ImageEnd

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return self.image.name


class InterpolationRecipe(_Recipe):
    """A place on the way from one embedding to another."""

    mode: Literal["interpolation"] = "interpolation"
    start: End
    end: End
    fraction: float = Field(ge=0.0, le=1.0, description="how far it is from the start to the end")

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return f"{self.start.name} -> {self.end.name} ({self.fraction:.0%})"


class EditRecipe(_Recipe):
    """An image noised to a strength, and denoised under a text's embedding."""

    mode: Literal["edit"] = "edit"
    prompt: str
    name: str = Field(description="what the user called the image")
    pixels: Annotated[str, AfterValidator(_pixels)]
    strength: float = Field(ge=0.0, le=1.0)

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return self.prompt


class ArithmeticRecipe(_Recipe):
    """An image's embedding, moved by the difference of two texts': z_image + strength (z_target - z_source)."""

    mode: Literal["arithmetic"] = "arithmetic"
    prompt: str
    instead_of: str
    image: ImageEnd
    strength: float = Field(allow_inf_nan=False)

    @property
    def title(self) -> str:
        """What people are told that it shows."""
        return self.prompt


Recipe = TextRecipe | SceneRecipe | VariationRecipe | InterpolationRecipe | EditRecipe | ArithmeticRecipe

_ANY: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="mode")])


def recipe_from(about: Mapping[str, str], where: str) -> Recipe:
    """Read the recipe in an image's text fields; one without the field was drawn from its prompt.

    Raises:
        InputFault: there is none, or it is not of this version.
    """
    try:
        if "recipe" in about:
            return _ANY.validate_python(json.loads(about["recipe"]))
        seed, prompt, generated_from = int(about["seed"]), about["prompt"], about.get("set", "prior")
        if generated_from == "reconstruction":
            return SceneRecipe(seed=seed, prompt=prompt, scene=json.loads(about["scene"]))
        return TextRecipe(seed=seed, prompt=prompt, prior=generated_from == "prior")
    except (KeyError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputFault(
            f"{where}: its text fields say not how it was made ({reason}): expected a PNG that this version of corgi "
            "made, with the fields prompt, seed, run and settings: give the file as it was written"
        ) from error


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-ready values; :func:`recipe_from` reads them back."""
    return recipe.model_dump(mode="json")
