"""Generated images: PNGs whose text fields say how they were made, and the sets of them that generate writes.

samples.jsonl                      a row for every image
images/<set>/<index>.png
embeddings/<set>/<first>.npy       the embeddings that a chunk of images was generated from
true/<index>.png                   the true images, where the prompts are captions of the experiment's own images
grid.png, grid_<set>.png           the first images of each set
timing/<chunk>.json                images and seconds of the decoder; apart from the records of the chunks, which
                                   are the same bytes whenever the same is generated
"""

import base64
import binascii
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter

from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import describe_parser_error, is_text, load_json, parsing, shown
from stages.formats.image_grids import image_grid, to_png
from stages.storage.artifact import Artifact, Output

GRID = "grid.png"
FIELDS = frozenset(
    ("prompt", "seed", "run", "settings", "recipe", "batch", "clip_score", "set", "index", "file", "scene")
)
LARGEST_PNG = 256 << 20  # bytes
LONGEST_FIELD = 64 << 20  # characters; an edit holds the pixels that it began with
MOST_PIXELS = 1 << 24
FLOATS = np.dtype("<f4")
_ROWS = "samples.jsonl"
Pixels = UInt8[np.ndarray, "height width 3"]


# ---- one image


def encode_png(image: Pixels, fields: Mapping[str, Any]) -> bytes:
    """Return the image as PNG with text fields (iTXt); values that are no text are written as JSON."""
    info = PngImagePlugin.PngInfo()
    for key, value in fields.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_png(path: Path) -> tuple[dict[str, str], Pixels]:
    """Return the pixels of a PNG and those of its text fields that images are generated from; others are left out."""

    def fault(reason: str) -> InputFault:
        return InputFault(f"{shown(path)} cannot be read as a PNG ({reason}); give an image that corgi generated")

    with parsing(fault):
        if path.exists() and not path.is_file():
            raise fault("it is no file")
        if path.stat().st_size > LARGEST_PNG:
            raise fault(f"it is larger than {LARGEST_PNG:,} bytes")
        with Image.open(path, formats=["PNG"]) as image:
            pixels = _pixels_of(image)
            return {key: str(value) for key, value in image.info.items() if key in FIELDS and is_field(value)}, pixels


def is_field(value: object) -> bool:
    """Whether a value is a text of a length that a field may have, and one that can be written."""
    return isinstance(value, str) and len(value) <= LONGEST_FIELD and is_text(value)


def _pixels_of(image: Image.Image) -> Pixels:
    """Decode an image whose header promises a size within bounds."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels: at most {MOST_PIXELS:,} are read")
    return np.asarray(image.convert("RGB"))


def pack_embedding(embedding: Float[np.ndarray, " embed"]) -> str:
    """Return an embedding as text, exactly: base64 of its float32 numbers."""
    return base64.b64encode(np.asarray(embedding, dtype=FLOATS).tobytes()).decode()


def unpack_embedding(packed: str) -> Float[np.ndarray, " embed"]:
    """Return the embedding that :func:`pack_embedding` packed, or raise ValueError."""
    values: Float[np.ndarray, " embed"] = np.frombuffer(_decoded(packed), dtype=FLOATS).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the embedding holds numbers that are not finite")
    return values


def pack_pixels(image: Pixels) -> str:
    """Return an image as text, exactly: base64 of a PNG."""
    return base64.b64encode(to_png(Image.fromarray(image))).decode()


def unpack_pixels(packed: str) -> Pixels:
    """Return the image that :func:`pack_pixels` packed, or raise ValueError."""
    try:
        with Image.open(io.BytesIO(_decoded(packed)), formats=["PNG"]) as image:
            return _pixels_of(image)
    except Exception as error:  # noqa: BLE001  a foreign parser's
        raise ValueError(f"the image cannot be decoded ({describe_parser_error(error)})") from None


def _decoded(packed: str) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"no base64 ({error})") from None


# ---- the artifact of generate


@dataclass(frozen=True)
class GeneratedRow:
    """What is known of an image; ``scene`` holds the fields of the scene that its prompt describes, if it does."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    set: str
    index: int
    file: str
    prompt: str
    seed: int
    settings: Mapping[str, Any]
    scene: Mapping[str, Any] | None


_ROW = TypeAdapter(GeneratedRow)


def image_file(set_name: str, index: int) -> str:
    """Return the path of an image in the artifact."""
    return f"images/{set_name}/{index:05d}.png"


def write_image(output: Output, row: GeneratedRow, image: Pixels) -> None:
    """Write an image with its row and its run in the text fields."""
    output.write_bytes(row.file, encode_png(image, asdict(row) | {"run": output.fingerprint}))


def read_images(artifact: Artifact, rows: Iterable[GeneratedRow]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return the pixels of images of one size."""
    images = []
    for row in rows:
        with artifact.open(row.file) as file, Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB")))
    return np.stack(images)


def write_rows(output: Output, rows: Iterable[GeneratedRow]) -> None:
    """Write the list of all images."""
    lines = (json.dumps(asdict(row), sort_keys=True) + "\n" for row in rows)
    output.write_bytes(_ROWS, "".join(lines).encode())


def write_true_images(output: Output, first: int, images: UInt8[np.ndarray, "batch height width 3"]) -> None:
    """Write the true images of a chunk of prompts whose first has this index."""
    for index, image in enumerate(images, first):
        output.write_bytes(_true_file(index), to_png(Image.fromarray(image)))


def read_true_images(artifact: Artifact, count: int) -> UInt8[np.ndarray, "batch height width 3"] | None:
    """Return the true images of all prompts; None: there are none."""
    if not count or not artifact.exists(_true_file(0)):
        return None
    images = []
    for index in range(count):
        with artifact.open(_true_file(index)) as file, Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB")))
    return np.stack(images)


def _true_file(index: int) -> str:
    return f"true/{index:05d}.png"


def read_rows(artifact: Artifact) -> list[GeneratedRow]:
    """Return the list of all images, in the order in which they were generated."""
    with artifact.open(_ROWS) as file, parsing(lambda reason: _unreadable(artifact, reason)):
        rows = [_ROW.validate_python(load_json(line)) for line in file]
        if odd := [row.file for row in rows if row.file != image_file(row.set, row.index) or "/" in row.set]:
            raise ValueError(f"the file of an image is {odd[0]!r}")
    return rows


def _unreadable(artifact: Artifact, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path(_ROWS)}: a row cannot be read ({reason}): expected the rows that this version writes: delete "
        f"{artifact.uri} and run again"
    )


def write_embeddings(output: Output, set_name: str, first: int, embeddings: Float[np.ndarray, "batch embed"]) -> None:
    """Write the embeddings of a chunk of images whose first has this index."""
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    output.write_bytes(f"embeddings/{set_name}/{first:06d}.npy", buffer.getvalue())


def read_embeddings(artifact: Artifact, set_name: str) -> Float[np.ndarray, "batch embed"]:
    """Return the embeddings that a set was generated from, in the order of its images."""
    parts = []
    for name in artifact.glob(f"embeddings/{set_name}/*.npy"):
        with artifact.open(name) as file:
            parts.append(np.load(io.BytesIO(file.read()), allow_pickle=False))
    return np.concatenate(parts)


def write_grid(output: Output, rows: Sequence[GeneratedRow], name: str) -> bytes:
    """Write images as a grid with their prompts, and return it."""
    grid = image_grid(read_images(output, rows), [row.prompt for row in rows])
    output.write_bytes(name, grid)
    return grid


def write_timing(output: Output, unit: str, images: int, seconds: float) -> None:
    """Write how long the decoder took for a chunk."""
    output.write_json(_timing_file(unit), {"images": images, "seconds": seconds})


def read_rate(artifact: Artifact, units: Iterable[str]) -> float:
    """Return images per second of the decoder over these chunks."""
    spans = [artifact.read_json(_timing_file(unit)) for unit in units]
    images, seconds = (sum(span[name] for span in spans) for name in ("images", "seconds"))
    return float(images / seconds)


def _timing_file(unit: str) -> str:
    return f"timing/{unit}.json"
