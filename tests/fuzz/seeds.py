"""Valid files of every format that is read, small, made anew each time."""

import io
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

CAPTIONS = ("a red square", "ein Dreieck, grün", "日本 🎨", None)


def rows(count: int = 4) -> list[dict[str, Any]]:
    """Return rows of a list of addresses."""
    return [
        {"url": f"http://127.0.0.1/{n}.png", "caption": CAPTIONS[n % 4], "year": 1900 + n, "tags": ["a", "b"]}
        for n in range(count)
    ]


def to_parquet(table: list[dict[str, Any]] | pa.Table, **options: Any) -> bytes:
    """Return a table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table) if isinstance(table, list) else table, sink, **options)
    return sink.getvalue()


def to_arrow(table: pa.Table, *, stream: bool) -> bytes:
    """Return a table in one of the two forms of Arrow files."""
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def to_csv(table: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """Return a table as text."""
    import csv

    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(table[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(table)
    return sink.getvalue().encode()


def to_json_lines(table: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def image(format: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    """Return an image of a format and mode."""
    rng, sink = np.random.default_rng(0), io.BytesIO()
    pixels = rng.integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    base = Image.fromarray(pixels, "RGBA") if mode in ("RGBA", "LA", "PA") else Image.fromarray(pixels[..., :3])
    if mode == "I;16":
        base = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif base.mode != mode:
        base = base.convert(mode)
    base.save(sink, format, **options)
    return sink.getvalue()


def images() -> list[bytes]:
    """Return images of all formats and kinds that matter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    png = PngImagePlugin.PngInfo()
    png.add_itxt("recipe", "{}")
    return [
        image("PNG"), image("PNG", "L"), image("PNG", "P"), image("PNG", "RGBA"), image("PNG", "LA"), image("PNG", "1"),
        image("PNG", "I;16"), image("PNG", pnginfo=png), image("JPEG"), image("JPEG", exif=exif), image("JPEG", "CMYK"),
        image("JPEG", progressive=True), image("JPEG", "L"), image("WEBP"), image("WEBP", lossless=True), image("GIF"),
        image("GIF", save_all=True, append_images=[Image.new("RGB", (12, 8))]), image("BMP"), image("TIFF"),
        image("TIFF", "F"), image("TIFF", compression="tiff_lzw"), image("TIFF", "CMYK"), image("AVIF"),
        image("PNG", save_all=True, append_images=[Image.new("RGB", (12, 8))]),
    ]  # fmt: skip


def tar(members: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar of files."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def shard() -> dict[str, bytes]:
    """Return the members of a shard in img2dataset's layout."""
    members: dict[str, bytes] = {}
    for n in range(3):
        captions = [f"caption {n}", "ä"] if n == 1 else []
        row = {"key": f"{n:04d}", "url": f"http://u:p@x/{n}", "caption": f"caption {n}", "captions": captions}
        members[f"{n:04d}.jpg"] = image("JPEG", size=(8, 8))
        members[f"{n:04d}.json"] = json.dumps(row).encode()
        members[f"{n:04d}.txt"] = f"caption {n}".encode()
    return members


def npy(values: np.ndarray) -> bytes:
    """Return an array as .npy."""
    sink = io.BytesIO()
    np.save(sink, values)
    return sink.getvalue()


def tensors(**values: np.ndarray) -> bytes:
    """Return tensors as safetensors."""
    from safetensors.numpy import save

    return bytes(save(values))


def dataset(count: int = 3) -> pa.Table:
    """Return a table of a Hugging Face dataset of images."""
    content = [{"bytes": image(size=(8, 8)), "path": f"{n}.png"} for n in range(count)]
    return pa.Table.from_pylist([{"image": one, "caption": f"caption {n}", "n": n} for n, one in enumerate(content)])


def response(status: str = "200 OK", body: bytes = b"", **headers: str) -> bytes:
    """Return an HTTP response as it goes over the wire."""
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def bmp_header(width: int, height: int) -> bytes:
    """Return the header of a BMP of a size, without its pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
