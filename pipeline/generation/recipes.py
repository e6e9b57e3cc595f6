"""From a request to recipes: the user's files are read, and every image gets its seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.errors import UsageError
from pipeline.generation.request import DEFAULT_STEPS, Request
from stages.contract.errors import InputFault
from stages.formats.images import decode_image
from stages.generate.config import FilePrompts
from stages.generate.prompts import read_prompts
from stages.inference.generation import edit_pixels, image_end
from stages.inference.requests import (
    ArithmeticRecipe,
    EditRecipe,
    End,
    InterpolationRecipe,
    Recipe,
    TextEnd,
    TextRecipe,
    VariationRecipe,
)
from stages.inference.text_to_image import TextToImage

LONGEST_SIDES = 32
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Source:
    """Something of the user's: a text, or an image with its file's name."""

    name: str
    image: Image.Image | None = None


@dataclass(frozen=True)
class Group:
    """Recipes of which the best are kept; of one recipe, that one."""

    recipes: Sequence[Recipe]
    kept: int = 1


def read_sources(request: Request) -> list[Source]:
    """Read the texts and images that a request names, before any model is loaded.

    Raises:
        UsageError: a file is not there, or is not what it should be.
    """
    match request.mode:
        case "text" if request.prompts is not None:
            try:
                return [Source(text) for text in read_prompts(FilePrompts(kind="file", path=request.prompts))]
            except InputFault as error:
                raise UsageError(str(error)) from None
        case "text":
            return [Source(text) for text in request.prompt]
        case "interpolation":
            return [_end_source(value, option) for value, option in ((request.start, "from"), (request.end, "to"))]
        case _:
            return [_image_source(Path(str(request.image)), "image")]


def groups_of(request: Request, sources: Sequence[Source], system: TextToImage) -> Iterator[Group]:
    """Yield what is to be drawn; images are numbered in this order, and each has the first seed plus its number."""
    seed = request.first_seed
    match request.mode:
        case "text":
            for source in sources:
                seeds, seed = range(seed, seed + request.num_candidates), seed + request.num_candidates
                yield Group([TextRecipe(seed=one, prompt=source.name) for one in seeds], request.num_kept)
        case "interpolation":
            yield from _trajectory(request, sources, system)
        case "variation":
            end = _end(sources[0], system)
            for one in range(seed, seed + (request.variations or 1)):
                yield Group([VariationRecipe.model_validate({"seed": one, "image": end})])
        case _:
            yield Group(_edits(request, sources[0], system), request.num_kept)


def _trajectory(request: Request, sources: Sequence[Source], system: TextToImage) -> Iterator[Group]:
    """One noise for all, so that what changes on the way is what the embedding says."""
    start, end = (_end(source, system) for source in sources)
    steps = request.steps or DEFAULT_STEPS
    for number in range(steps):
        fraction = number / (steps - 1)
        yield Group([InterpolationRecipe(seed=request.first_seed, start=start, end=end, fraction=fraction)])


def _edits(request: Request, source: Source, system: TextToImage) -> list[Recipe]:
    seeds = range(request.first_seed, request.first_seed + request.num_candidates)
    told = {"prompt": request.edit, "strength": request.used_strength}
    if request.mode == "arithmetic":
        moved = {**told, "instead_of": request.instead_of, "image": _end(source, system)}
        return [ArithmeticRecipe.model_validate({"seed": seed, **moved}) for seed in seeds]
    if source.image is None:
        raise ValueError("generate: an edit needs an image")
    noised = {**told, "name": source.name, "pixels": edit_pixels(system, source.image)}
    return [EditRecipe.model_validate({"seed": seed, **noised}) for seed in seeds]


def _end(source: Source, system: TextToImage) -> End:
    return TextEnd(name=source.name) if source.image is None else image_end(system, source.image, source.name)


def _end_source(value: str | None, option: str) -> Source:
    """Take what names a file for an image, and everything else for a text."""
    text = value or ""
    path = Path(text)
    if _is_file(path):
        return _image_source(path, option)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(
            f"--{option}: there is no file {text}; correct the path, or give a text without such an ending"
        )
    return Source(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text may be longer than any file's name
        return False


def _image_source(path: Path, option: str) -> Source:
    where = f"--{option} {path}"
    try:
        image = decode_image(path.read_bytes(), where=where)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror}); give an image file") from None
    except InputFault as error:
        raise UsageError(str(error)) from None
    if max(image.size) > LONGEST_SIDES * min(image.size):
        raise UsageError(
            f"{where}: the image has {image.width} x {image.height} pixels; allowed are sides of at most "
            f"{LONGEST_SIDES} to 1; cut out the part that matters"
        )
    return Source(str(path), image)
