"""A finished model in Python: ``TextToImage.load("my-run").generate(["a red square"])``."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from PIL import Image

from models.decoders.buckets import size_name
from pipeline.errors import UsageError
from pipeline.generation.models import open_system
from pipeline.generation.options import (
    DEFAULT_STEPS,
    DEFAULT_STRENGTH,
    LARGEST_SEED,
    LONGEST_TEXT,
    MOST_IMAGES,
    require_strength,
)
from pipeline.options import default_store
from pipeline.store import Store
from stages.contract.parsing import is_text, shown
from stages.inference.generation import generate_images
from stages.inference.requests import ImageRequest
from stages.inference.sources import (
    ImageSource,
    arithmetic_requests,
    edit_requests,
    interpolation_groups,
    read_image,
    source_from,
    unconditional_groups,
    variation_groups,
)
from stages.inference.text_to_image import TextToImageSystem

_MODES_OF_PNG = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
AnyImage = Image.Image | Path | str
"""An image of Pillow's, or the path of an image file."""


class TextToImage:
    """CLIP, prior and decoder of a finished run.

    Every method takes a ``seed``: another seed gives other images, and the same one the same images. Further keywords
    are sampling settings by their names in :attr:`settings`, such as ``decoder_steps=50`` or ``prior_guidance=2.0``,
    and ``size``, one of :attr:`sizes`. Images are RGB images of Pillow's; without a size, they are squares with sides
    of :attr:`resolution` pixels.
    """

    def __init__(self, system: TextToImageSystem, run: str) -> None:
        self._system, self.run = system, run

    @classmethod
    def load(cls, source: str | Path, *, store: str | None = None, device: str | None = None) -> Self:
        """Load a model from the folder of ``corgi export``, or from a run in a store, by its id or its beginning.

        ``store`` is a folder or fsspec URI; None: that of the variable CORGI_STORE, else ./workspace.
        ``device`` is one of torch's, such as "cpu" or "cuda"; None takes a GPU where there is one.

        Raises:
            UsageError: there is no such folder or run, or the run is not finished.
            StageError: the models are damaged, or of another version.
        """
        name = source if isinstance(source, str) else str(source)
        return cls(*open_system(Store(store or default_store()), name, device=device))

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self._system.resolution

    @property
    def sizes(self) -> list[str]:
        """Widths and heights of the images that can be generated, such as "96x64"; the square is among them."""
        return [size_name(size) for size in self._system.sizes]

    @property
    def settings(self) -> dict[str, Any]:
        """The sampling settings of the run, by their names."""
        return self._system.settings.flat()

    def generate(self, prompts: Sequence[str] | str, *, seed: int = 0, **settings: Any) -> list[Image.Image]:
        """Return one image for each prompt; the first prompt has the seed, the second one the next, and so on.

        The prompts of a run's ``generate`` stage, in their order and with its seed, give the run's images.
        """
        texts = [_text(text) for text in ([prompts] if isinstance(prompts, str) else prompts)]
        if not texts:
            return []
        system, seeds = self._with(settings), _seeds(seed, len(texts))
        try:
            return [Image.fromarray(image) for image in system.generate(texts, seeds)]
        except ValueError as error:  # the prior knows no captions
            raise UsageError(str(error)) from None

    def generate_unconditional(self, num: int = 1, *, seed: int = 0, **settings: Any) -> list[Image.Image]:
        """Return images of no prompt, by a prior that learned without captions."""
        return _images(self._with(settings), unconditional_groups(_seeds(seed, num)))

    def vary(self, image: AnyImage, num: int = 1, *, seed: int = 0, **settings: Any) -> list[Image.Image]:
        """Return variations of an image: others with its embedding."""
        system = self._with(settings)
        return _images(system, variation_groups(system, _source(image), _seeds(seed, num)))

    def interpolate(
        self, start: AnyImage, end: AnyImage, num: int = DEFAULT_STEPS, *, seed: int = 0, **settings: Any
    ) -> list[Image.Image]:
        """Return the images along the trajectory from one end to the other, both included.

        An end that is a ``str`` is a text; an image is one of Pillow's, or a ``Path``.
        """
        if num < 2:
            raise UsageError(f"interpolate: found {num} images: expected 2 or more, as both ends are among them")
        system = self._with(settings)
        ends = tuple(_text(end) if isinstance(end, str) else _source(end) for end in (start, end))
        return _images(system, interpolation_groups(system, (ends[0], ends[1]), num, _seeds(seed, 1)[0]))

    def edit(
        self,
        image: AnyImage,
        prompt: str,
        *,
        instead_of: str | None = None,
        strength: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Image.Image:
        """Return an image that shows what the prompt says, made from another image.

        Without ``instead_of``, the image is noised to a strength from 0 (as it is) to 1 (a new image), 0.6 if not
        given, and denoised under the prompt: decoders by diffusion can do so. With ``instead_of``, its embedding is
        moved by the difference of the two texts', times the strength (1).
        """
        system, source, seeds = self._with(settings), _source(image), _seeds(seed, 1)
        used = DEFAULT_STRENGTH["edit" if instead_of is None else "arithmetic"] if strength is None else strength
        require_strength(used, "edit: strength", is_noise=instead_of is None)
        if instead_of is not None:
            texts = _text(instead_of), _text(prompt)
            return _generated(system, arithmetic_requests(system, source, texts, seeds, strength=used))[0]
        if not system.can_edit:
            raise UsageError(
                f"edit: a decoder of kind {system.decoder_kind} generates no image by denoising: give instead_of, the "
                "text of what the image shows now, to edit by the embedding"
            )
        return _generated(system, edit_requests(system, source, _text(prompt), seeds, strength=used))[0]

    def _with(self, settings: dict[str, Any]) -> TextToImageSystem:
        changes = {"decoder_size" if name == "size" else name: value for name, value in settings.items()}
        try:
            return self._system.with_settings(changes) if changes else self._system
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from None


def _images(system: TextToImageSystem, groups: Any) -> list[Image.Image]:
    return _generated(system, [request for group in groups for request in group.requests])


def _generated(system: TextToImageSystem, requests: Sequence[ImageRequest]) -> list[Image.Image]:
    try:
        return [Image.fromarray(one.image) for one in generate_images(system, requests)]
    except ValueError as error:
        raise UsageError(str(error)) from None


def _text(text: str) -> str:
    if not (isinstance(text, str) and is_text(text) and len(text) <= LONGEST_TEXT):
        raise UsageError(f"prompts: found {shown(text)}: expected texts of at most {LONGEST_TEXT} characters in UTF-8")
    return text


def _seeds(seed: int, num: int) -> range:
    if not (1 <= num <= MOST_IMAGES and 0 <= seed <= LARGEST_SEED):
        raise UsageError(
            f"found {num} images from seed {seed}: expected 1 to {MOST_IMAGES} images, and a seed of 0 to "
            f"{LARGEST_SEED}"
        )
    return range(seed, seed + num)


def _source(image: AnyImage) -> ImageSource:
    """Return an image as the one decoder of image bytes reads it: upright, in sRGB, within limits."""
    if isinstance(image, Image.Image):
        stored = image if image.mode in _MODES_OF_PNG else image.convert("RGB")
        with io.BytesIO() as buffer:
            stored.save(buffer, "PNG", exif=image.getexif())
            return source_from(buffer.getvalue(), "an image", "image")
    return read_image(Path(image), f"image {image}")
