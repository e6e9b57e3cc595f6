"""Texts and images of the user's, and the requests for images that are made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stages.contract.errors import InputFault
from stages.contract.parsing import clean_text
from stages.formats.generated_images import pack_embedding, pack_pixels
from stages.formats.images import covering, cropped, decode_image, square
from stages.inference.requests import (
    ArithmeticRequest,
    EditRequest,
    End,
    ImageEnd,
    ImageRequest,
    InterpolationRequest,
    TextEnd,
    TextRequest,
    UnconditionalRequest,
    VariationRequest,
)
from stages.inference.text_to_image import TextToImageSystem

LONGEST_SIDES = 32
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageSource:
    """An image of the user's with its file's name."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Group:
    """Requests of which the best are kept; of one request, that one."""

    requests: Sequence[ImageRequest]
    kept: int = 1


def read_image(path: Path, where: str) -> ImageSource:
    """Read an image file of any sort that is decoded; ``where`` begins the messages of errors."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputFault(f"{where}: cannot be read ({error.strerror}); give an image file") from None
    return source_from(content, str(path), where)


def source_from(content: bytes, name: str, where: str) -> ImageSource:
    """Return the image that a file of this content holds."""
    image = decode_image(content, where=where)
    if max(image.size) > LONGEST_SIDES * min(image.size):
        raise InputFault(
            f"{where}: the image has {image.width} x {image.height} pixels; allowed are sides of at most "
            f"{LONGEST_SIDES} to 1; cut out the part that matters"
        )
    return ImageSource(clean_text(name), image)


def read_end(text: str, option: str) -> ImageSource | str:
    """Return an image where the text names a file, and the text itself everywhere else."""
    path = Path(text)
    if _is_file(path):
        return read_image(path, f"--{option} {path}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputFault(
            f"--{option}: there is no file {text}; correct the path, or give a text without such an ending"
        )
    return text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text may be longer than any file's name
        return False


def image_end(system: TextToImageSystem, image: Image.Image, name: str) -> ImageEnd:
    """Return an image as requests hold it: by its embedding."""
    embedding = system.images.encode_images([image])[0]
    return ImageEnd(name=name, embedding=pack_embedding(embedding.numpy()))


def text_groups(prompts: Sequence[str], seed: int, candidates: int, kept: int) -> Iterator[Group]:
    """Yield a group for each prompt; seeds go on from one prompt to the next."""
    for prompt in prompts:
        yield Group([TextRequest(seed=seed + number, prompt=prompt) for number in range(candidates)], kept)
        seed += candidates


def unconditional_groups(seeds: range) -> Iterator[Group]:
    """Yield an image of no prompt for each seed."""
    for seed in seeds:
        yield Group([UnconditionalRequest(seed=seed)])


def variation_groups(system: TextToImageSystem, source: ImageSource, seeds: range) -> Iterator[Group]:
    """Yield a variation for each seed."""
    end = image_end(system, source.image, source.name)
    for seed in seeds:
        yield Group([VariationRequest(seed=seed, image=end)])


def interpolation_groups(
    system: TextToImageSystem, ends: tuple[ImageSource | str, ImageSource | str], steps: int, seed: int
) -> Iterator[Group]:
    """Yield the trajectory between two ends; all have one noise, so that what changes is what the embedding says."""
    start, end = (_end(system, source) for source in ends)
    for number in range(steps):
        yield Group([InterpolationRequest(seed=seed, start=start, end=end, fraction=number / (steps - 1))])


def edit_requests(
    system: TextToImageSystem, source: ImageSource, prompt: str, seeds: range, *, strength: float
) -> list[ImageRequest]:
    """Return edits by noise: of the image's middle square or bucket, at the size that is generated."""
    width, height = system.size
    is_square = width == height
    part = square(source.image, width) if is_square else cropped(covering(source.image, system.size), system.size)
    pixels = pack_pixels(part)
    return [EditRequest(seed=seed, prompt=prompt, name=source.name, pixels=pixels, strength=strength) for seed in seeds]


def arithmetic_requests(
    system: TextToImageSystem, source: ImageSource, texts: tuple[str, str], seeds: range, *, strength: float
) -> list[ImageRequest]:
    """Return edits by the embedding, from what the first text says to what the second one does."""
    end, (instead_of, prompt) = image_end(system, source.image, source.name), texts
    return [
        ArithmeticRequest(seed=seed, prompt=prompt, instead_of=instead_of, image=end, strength=strength)
        for seed in seeds
    ]


def _end(system: TextToImageSystem, source: ImageSource | str) -> End:
    return TextEnd(name=source) if isinstance(source, str) else image_end(system, source.image, source.name)
