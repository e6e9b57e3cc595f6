"""Generated images: PNGs whose text fields say how they were made, and the sets of them that generate writes.

samples.jsonl                      a row for every image
rows/<unit>.jsonl                  the same of each unit of work, which is named <set>-<first>
images/<set>/<index>.png           or, of many images, images/<set>/<first>.tar: webdataset shards of
                                   <index>.png, .txt (the prompt), .json (the row) and, in the first set, .true.png
embeddings/<set>/<first>.npy       the embeddings that a unit's images were generated from
clips.json                         the CLIP models that these are of (generated_clips.py)
true/<index>.png                   the true images, where the prompts are captions of the experiment's own images
grid.png, grid_<set>.png           the first images of each set
timing/<unit>.json                 images and seconds of the decoder; apart from the records of the units, which
                                   are the same bytes whenever the same is generated
"""

import base64
import binascii
import contextlib
import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter

from stages.contract.documents import UnitRecord
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import describe_parser_error, is_text, load_json, parsing, shown
from stages.formats.image_grids import image_grid, to_png
from stages.formats.image_tars import TarWriter, read_tar_files, tar_suffixes
from stages.storage.artifact import Artifact, Output, unit_record

GRID = "grid.png"
FIELDS = frozenset(
    ("prompt", "seed", "run", "settings", "recipe", "batch", "clip_score", "set", "index", "file", "scene")
)
LARGEST_PNG = 256 << 20  # bytes
LONGEST_FIELD = 64 << 20  # characters; an edit holds the pixels that it began with
MOST_PIXELS = 1 << 24
FLOATS = np.dtype("<f4")
SHARD_IMAGES = 1024
"""Images of a webdataset shard."""
_ROWS = "samples.jsonl"
_SETS = ("prior", "text_embedding", "reconstruction", "unconditional")  # in the order in which they are generated
_TRUE = "true.png"
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
    categories: Mapping[str, str] = field(default_factory=dict)
    """What the file of prompts says of the prompt, by its columns (a category, a challenge)."""

    def fields(self) -> dict[str, Any]:
        """Return what is written of it; categories where there are some."""
        found = asdict(self)
        return found if self.categories else {name: value for name, value in found.items() if name != "categories"}


class GeneratedRecord(UnitRecord):
    """The record of a unit of generated images."""

    images: int
    resolution: int


@dataclass(frozen=True)
class GeneratedUnit:
    """Consecutive images of a set, which are generated and evaluated together."""

    set: str
    first: int
    count: int

    @property
    def name(self) -> str:
        """Name of the unit."""
        return _unit_name(self.set, self.first)


_ROW = TypeAdapter(GeneratedRow)
AddImage = Callable[[GeneratedRow, Pixels, "Pixels | None"], None]


def image_file(set_name: str, index: int, *, in_shards: bool = False) -> str:
    """Return the path of an image in the artifact; one in a webdataset shard lies below the shard's path."""
    if in_shards:
        return f"{_tar_file(set_name, index // SHARD_IMAGES * SHARD_IMAGES)}/{_key(index)}.png"
    return f"images/{set_name}/{index:05d}.png"


def _tar_file(set_name: str, first: int) -> str:
    return f"images/{set_name}/{first:06d}.tar"


def _key(index: int) -> str:
    return f"{index:06d}"


def _unit_name(set_name: str, first: int) -> str:
    return f"{set_name}-{first:06d}"


@contextlib.contextmanager
def writing_images(output: Output, set_name: str, first: int, *, in_shards: bool) -> Iterator[AddImage]:
    """Yield a function that writes an image with its row and run in the text fields, and the true image, if any.

    It is called for the images of a unit in their order; at the end their rows are written.
    """
    rows = []
    with contextlib.ExitStack() as stack:
        tar = None
        if in_shards:
            tar = stack.enter_context(TarWriter(stack.enter_context(output.writing(_tar_file(set_name, first)))))

        def add(row: GeneratedRow, image: Pixels, true: Pixels | None) -> None:
            rows.append(row)
            files = {"png": encode_png(image, row.fields() | {"run": output.fingerprint})}
            files |= {} if true is None else {_TRUE: to_png(Image.fromarray(true))}
            if tar is not None:
                tar.add(_key(row.index), files | {"txt": row.prompt.encode(), "json": _line(row)})
                return
            output.write_bytes(row.file, files["png"])
            if true is not None:
                output.write_bytes(_true_file(row.index), files[_TRUE])

        yield add
    output.write_bytes(_rows_file(_unit_name(set_name, first)), b"".join(map(_line, rows)))


def _line(row: GeneratedRow) -> bytes:
    return (json.dumps(row.fields(), sort_keys=True) + "\n").encode()


def gather_rows(output: Output, units: Iterable[str]) -> None:
    """Write the list of all images from those of the units."""
    with output.writing(_ROWS) as path, path.open("wb") as file:
        for unit in units:
            with output.open(_rows_file(unit), record=unit_record(unit)) as rows:
                shutil.copyfileobj(rows, file)


def list_units(artifact: Artifact) -> list[GeneratedUnit]:
    """Return all units, in the order in which the images are listed."""
    found = []
    for name, record in GeneratedRecord.done(artifact).items():
        set_name, _, first = name.rpartition("-")
        if set_name not in _SETS or not first.isdigit():
            raise _unreadable(artifact, f"units/{name}.json", f"no unit of images is named {shown(name)}")
        found.append(GeneratedUnit(set_name, int(first), record.images))
    return sorted(found, key=lambda unit: (_SETS.index(unit.set), unit.first))


def read_unit_rows(artifact: Artifact, unit: str) -> list[GeneratedRow]:
    """Return the rows of a unit."""
    name = _rows_file(unit)
    with artifact.open(name, record=unit_record(unit)) as file:
        return list(_parsed(artifact, name, file))


def iterate_rows(artifact: Artifact) -> Iterator[GeneratedRow]:
    """Yield the rows of all images, in the order in which they were generated, one at a time."""
    with artifact.open(_ROWS) as file:
        yield from _parsed(artifact, _ROWS, file)


def read_rows(artifact: Artifact) -> list[GeneratedRow]:
    """Return the rows of all images, in the order in which they were generated."""
    return list(iterate_rows(artifact))


def _parsed(artifact: Artifact, name: str, lines: Iterable[bytes]) -> Iterator[GeneratedRow]:
    for line in lines:
        with parsing(lambda reason: _unreadable(artifact, name, reason)):
            row = _ROW.validate_python(load_json(line))
            files = [image_file(row.set, row.index, in_shards=in_shards) for in_shards in (False, True)]
            if row.file not in files or "/" in row.set:
                raise ValueError(f"the file of an image is {row.file!r}")
        yield row


def _unreadable(artifact: Artifact, name: str, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path(name)}: a row cannot be read ({reason}): expected the rows that this version writes: delete "
        f"{artifact.uri} and run again"
    )


def read_pngs(artifact: Artifact, rows: Iterable[GeneratedRow]) -> Iterator[bytes]:
    """Yield the PNG of each image, whether it is a file or lies in a shard."""
    return _read_files(artifact, rows, "png", lambda row: row.file)


def read_images(artifact: Artifact, rows: Iterable[GeneratedRow]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return the pixels of images of one size."""
    return np.stack([_decoded_png(content) for content in read_pngs(artifact, rows)])


def read_true_images(
    artifact: Artifact, rows: Sequence[GeneratedRow]
) -> UInt8[np.ndarray, "batch height width 3"] | None:
    """Return the true images of rows of the first set; None: there are none."""
    if not rows or not _has_true_image(artifact, rows[0]):
        return None
    contents = _read_files(artifact, rows, _TRUE, lambda row: _true_file(row.index))
    return np.stack([_decoded_png(content) for content in contents])


def _has_true_image(artifact: Artifact, row: GeneratedRow) -> bool:
    if (tar := _tar_of(row)) is None:
        return artifact.exists(_true_file(row.index))
    path = artifact.local(tar, record=unit_record(_unit_name(row.set, _first_of_shard(row))))
    return _TRUE in tar_suffixes(path, _key(row.index))


def _read_files(
    artifact: Artifact, rows: Iterable[GeneratedRow], suffix: str, file_of: Callable[[GeneratedRow], str]
) -> Iterator[bytes]:
    """Yield a file of each image: of those in shards by its suffix, each shard being opened once."""
    for tar, group in itertools.groupby(rows, key=_tar_of):
        members = list(group)
        if tar is None:
            for row in members:
                with artifact.open(file_of(row)) as file:
                    yield file.read()
            continue
        record = unit_record(_unit_name(members[0].set, _first_of_shard(members[0])))
        try:
            path = artifact.local(tar, record=record)
            yield from read_tar_files(path, [(_key(row.index), suffix) for row in members])
        except KeyError as error:
            raise artifact.damaged_file(tar, record, f"no sample {error.args[0]}") from error


def _tar_of(row: GeneratedRow) -> str | None:
    tar, is_in_shard, _ = row.file.partition(".tar/")
    return f"{tar}.tar" if is_in_shard else None


def _first_of_shard(row: GeneratedRow) -> int:
    return row.index // SHARD_IMAGES * SHARD_IMAGES


def _decoded_png(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def _true_file(index: int) -> str:
    return f"true/{index:05d}.png"


def _rows_file(unit: str) -> str:
    return f"rows/{unit}.jsonl"


def write_embeddings(output: Output, set_name: str, first: int, embeddings: Float[np.ndarray, "batch embed"]) -> None:
    """Write the embeddings of a unit of images whose first has this index."""
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    output.write_bytes(_embeddings_file(set_name, first), buffer.getvalue())


def read_unit_embeddings(artifact: Artifact, unit: GeneratedUnit) -> Float[np.ndarray, "batch embed"]:
    """Return the embeddings that a unit's images were generated from."""
    with artifact.open(_embeddings_file(unit.set, unit.first)) as file:
        found: Float[np.ndarray, "batch embed"] = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return found


def _embeddings_file(set_name: str, first: int) -> str:
    return f"embeddings/{set_name}/{first:06d}.npy"


def write_grid(output: Output, rows: Sequence[GeneratedRow], name: str) -> bytes:
    """Write images as a grid with their prompts, and return it."""
    grid = image_grid(read_images(output, rows), [row.prompt for row in rows])
    output.write_bytes(name, grid)
    return grid


def write_timing(output: Output, unit: str, images: int, seconds: float) -> None:
    """Write how long the decoder took for a unit."""
    output.write_json(_timing_file(unit), {"images": images, "seconds": seconds})


def read_rate(artifact: Artifact, units: Iterable[str]) -> float:
    """Return images per second of the decoder, of one worker, over these units."""
    images = seconds = 0.0
    for unit in units:
        span = read_timing(artifact, unit)
        images, seconds = images + span[0], seconds + span[1]
    return float(images / seconds)


def read_timing(artifact: Artifact, unit: str) -> tuple[int, float]:
    """Return how many images a unit has, and how many seconds the decoder took for them."""
    span = artifact.read_json(_timing_file(unit))
    return int(span["images"]), float(span["seconds"])


def _timing_file(unit: str) -> str:
    return f"timing/{unit}.json"
