"""Bring one encoded image into the shards' form with img2dataset's resizer, within limits."""

import hashlib
import io
import os
import sys
import types
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from PIL import Image, UnidentifiedImageError

from stages.download_shards.config import DownloadShardsConfig

_UNREADABLE = "Image decoding error"  # in img2dataset's words
_TOO_LARGE = "image area too large"
_TRUNCATED = "image file is truncated"
_END_OF_JPEG = b"\xff\xd9"
_TRAILER = 64  # bytes that may follow the end of a whole JPEG before it is looked at closely

Resized = tuple[bytes | None, dict[str, Any]]


def make_resizer(config: DownloadShardsConfig) -> Callable[[bytes], Resized]:
    """Return the function from an encoded image to its bytes in a shard and what is known of them.

    The second part holds error_message, width, height, original_width, original_height (pixels) and sha256 (of the
    encoded image as it came); where there is an error, everything else is None.
    """
    resizer = _import_resizer().Resizer(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=config.resize_only_if_bigger,
        encode_quality=config.quality,
        encode_format=config.encode_format,
        skip_reencode=config.skip_reencode,
        min_image_size=config.min_image_size,
    )

    def resize(content: bytes) -> Resized:
        fault = _fault_of(content, config.max_pixels)
        if fault is not None:
            return None, unmeasured(fault)
        image, width, height, original_width, original_height, error = resizer(io.BytesIO(content))
        if error is not None:
            return None, unmeasured(str(error))
        return image, {
            "error_message": None,
            "width": width,
            "height": height,
            "original_width": original_width,
            "original_height": original_height,
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    return resize


def unmeasured(error: str) -> dict[str, Any]:
    """Return what is known of an entry that gave no image."""
    unknown = {"width": None, "height": None, "original_width": None, "original_height": None, "sha256": None}
    return {"error_message": error, **unknown}


def _fault_of(content: bytes, max_pixels: int) -> str | None:
    """Look at an image before it is decoded: a small file may unfold to more memory than there is.

    OpenCV fills up a JPEG that breaks off with grey, so that is looked for here as well. What Pillow does not know is
    not given to OpenCV: its size could not be told beforehand.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > max_pixels:
                    return _TOO_LARGE
                if image.format in ("JPEG", "MPO") and _END_OF_JPEG not in content[-_TRAILER:]:
                    image.draft("RGB", (1, 1))  # the smallest scale: only the end of the data matters
                    image.load()
    except Image.DecompressionBombError:
        return _TOO_LARGE
    except UnidentifiedImageError:
        return _UNREADABLE
    except OSError as error:
        return _TRUNCATED if "truncated" in str(error) else _UNREADABLE
    except (ValueError, SyntaxError, EOFError, OverflowError, MemoryError):  # what Pillow's readers raise on damage
        return _UNREADABLE
    return None


def _import_resizer() -> Any:
    """Import img2dataset's resizer without its package file.

    The package file imports the command line and with it torch, ray, pandas and fire: seconds, in every worker. An
    empty module that only knows the folder takes its place for the moment.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the package registry
    spec = find_spec("img2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("download_shards needs img2dataset: pip install img2dataset")
    stand_in = types.ModuleType("img2dataset")
    stand_in.__path__ = list(spec.submodule_search_locations)
    placed = sys.modules.setdefault("img2dataset", stand_in)
    try:
        from img2dataset import resizer
    finally:
        if placed is stand_in:
            del sys.modules["img2dataset"]  # a later `import img2dataset` gets the whole package
    if not isinstance(resizer.A, _Transforms):
        resizer.A = _Transforms(resizer.A)
    return resizer


class _Transforms:
    """What the resizer sees of albumentations.

    It makes its transforms anew for every image, which for the checks of their settings takes about a sixth of the
    image's whole time. Here one is made for the same settings once; none of those that it uses draws at random.
    """

    def __init__(self, library: types.ModuleType) -> None:
        self._library = library
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the function that makes a kind of transform, or has made it already."""

        def make(**settings: Any) -> Any:
            called = f"{name}({settings})"
            if called not in self._made:
                self._made[called] = getattr(self._library, name)(**settings)
            return self._made[called]

        return make
