"""What an image is generated from besides the models, as data that is written into the image and read back from it.

An image that the user gave is held as its embedding or, where it is denoised, as its pixels: so an image can be
generated again from its own file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, TypeAdapter, ValidationError

from stages.contract.config import ConfigModel
from stages.contract.errors import InputFault
from stages.contract.parsing import load_json, shown
from stages.formats.generated_images import unpack_embedding, unpack_pixels

# A file may say anything.
LARGEST_BATCH = 4096
LARGEST_SEED = 2**63 - 1  # of torch's generators
LONGEST_TEXT = 10_000  # characters of a prompt or name
MOST_STRENGTH = 1_000.0
Words = Annotated[str, Field(max_length=LONGEST_TEXT)]


def _embedding(packed: str) -> str:
    unpack_embedding(packed)
    return packed


def _pixels(packed: str) -> str:
    unpack_pixels(packed)
    return packed


class ImageEnd(ConfigModel):
    """An image of the user's, by its embedding."""

    kind: Literal["image"] = "image"
    name: Words = Field(description="what the user called it")
    embedding: Annotated[str, AfterValidator(_embedding)]


class TextEnd(ConfigModel):
    """A prompt, whose embedding the prior samples."""

    kind: Literal["text"] = "text"
    name: Words = Field(description="the prompt")


End = Annotated[ImageEnd | TextEnd, Field(discriminator="kind")]


class _Request(ConfigModel):
    seed: NonNegativeInt = Field(le=LARGEST_SEED)


class _PromptRequest(_Request):
    prompt: Words

    @property
    def title(self) -> str:
        """What the image shows, for people."""
        return self.prompt


class TextRequest(_PromptRequest):
    """Text to image."""

    mode: Literal["text"] = "text"
    prior: bool = Field(True, description="false: the text's own embedding stands for an image's")


class UnconditionalRequest(_Request):
    """An image of no prompt, by a prior that has learned without captions."""

    mode: Literal["unconditional"] = "unconditional"

    @property
    def title(self) -> str:
        """What the image shows, for people: nobody said."""
        return ""


class SceneRequest(_PromptRequest):
    """A rendered scene generated again from its embedding, as evaluation's control set is."""

    mode: Literal["scene"] = "scene"
    scene: dict[str, Any]


class VariationRequest(_Request):
    """An image of the same embedding as the user's."""

    mode: Literal["variation"] = "variation"
    image: ImageEnd

    @property
    def title(self) -> str:
        """What the image shows, for people."""
        return self.image.name


class InterpolationRequest(_Request):
    """A point of the trajectory from one embedding to another."""

    mode: Literal["interpolation"] = "interpolation"
    start: End
    end: End
    fraction: float = Field(ge=0.0, le=1.0, description="how far it is from the start to the end")

    @property
    def title(self) -> str:
        """What the image shows, for people."""
        return f"{self.start.name} -> {self.end.name} ({self.fraction:.0%})"


class EditRequest(_PromptRequest):
    """An image noised to a strength, and denoised under a text's embedding."""

    mode: Literal["edit"] = "edit"
    name: Words = Field(description="what the user called the image")
    pixels: Annotated[str, AfterValidator(_pixels)]
    strength: float = Field(ge=0.0, le=1.0)


class ArithmeticRequest(_PromptRequest):
    """An image's embedding, moved by the difference of two texts': z_image + strength (z_target - z_source)."""

    mode: Literal["arithmetic"] = "arithmetic"
    instead_of: Words
    image: ImageEnd
    strength: float = Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)


ImageRequest = (
    TextRequest
    | UnconditionalRequest
    | SceneRequest
    | VariationRequest
    | InterpolationRequest
    | EditRequest
    | ArithmeticRequest
)

_ANY: TypeAdapter[ImageRequest] = TypeAdapter(Annotated[ImageRequest, Field(discriminator="mode")])


@dataclass(frozen=True)
class BatchRow:
    """The size of the batch that an image was generated in, and its row there."""

    size: int
    row: int


def fields_of(request: ImageRequest, batch_row: BatchRow) -> dict[str, Any]:
    """Return what is written into an image; :func:`request_from` and :func:`batch_row_from` read it back."""
    return {
        "prompt": request.title,
        "seed": str(request.seed),
        "recipe": request.model_dump(mode="json"),
        "batch": [batch_row.size, batch_row.row],
    }


def request_from(fields: Mapping[str, str], where: str) -> ImageRequest:
    """Return the request in an image's text fields; one without the field was generated from its prompt.

    Raises:
        InputFault: the fields do not hold what the image was generated from.
    """
    try:
        if "recipe" in fields:
            return _ANY.validate_python(load_json(fields["recipe"]))
        seed, prompt, generated_from = int(fields["seed"]), fields["prompt"], fields.get("set", "prior")
        if generated_from == "reconstruction":
            scene = load_json(fields["scene"])
            if scene is None:
                raise InputFault(_no_photograph(where))
            return SceneRequest(seed=seed, prompt=prompt, scene=scene)
        if generated_from == "unconditional":
            return UnconditionalRequest(seed=seed)
        return TextRequest(seed=seed, prompt=prompt, prior=generated_from == "prior")
    except (KeyError, ValueError) as error:
        reason = shown(error.errors()[0]["msg"] if isinstance(error, ValidationError) else error)
        raise InputFault(
            f"{where}: has no text fields that say how it was made ({reason}): expected a PNG that this version of "
            "corgi made, with the fields prompt, seed, run and settings: give the file as it was written"
        ) from error


def _no_photograph(where: str) -> str:
    return (
        f"{where}: was made from the embedding of a photograph (the set reconstruction of held-out prompts), which the "
        "file does not hold: expected an image that was made from a prompt, a rendered scene, or by corgi generate: "
        "give the photograph itself, as corgi generate RUN --image PHOTOGRAPH"
    )


def batch_row_from(fields: Mapping[str, str]) -> BatchRow:
    """Return an image's row in its batch; images of the generate stage and of a served model have none written."""
    size, row = load_json(fields.get("batch", "[1, 0]"))
    if not (type(size) is type(row) is int and 0 <= row < size <= LARGEST_BATCH):
        raise ValueError(f"batch {shown(fields['batch'])}")
    return BatchRow(size, row)
