"""Files of images as strangers have them: every form, turned, damaged and made to do harm; all are generated."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from PIL import Image

BACK = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # by orientation: the transposition that undoes it
CORNERS = ((220, 40, 40), (40, 200, 60), (50, 60, 210), (230, 220, 70))  # top left, top right, bottom left and right


def scene(width: int, height: int) -> np.ndarray:
    """Return an image whose four quarters differ."""
    pixels = np.empty((height, width, 3), np.uint8)
    for corner, (rows, columns) in zip(CORNERS, itertools.product(_halves(height), _halves(width)), strict=True):
        pixels[rows, columns] = corner
    return pixels


def _halves(size: int) -> tuple[slice, slice]:
    return slice(0, size // 2), slice(size // 2, size)


def encode(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    """Return an image in a format of Pillow's."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def exif(orientation: int, *, order: str = "<", kind: str = "H") -> bytes:
    """Return EXIF data with an orientation and nothing else."""
    begin = b"II*\0" if order == "<" else b"MM\0*"
    number = {"B": 1, "H": 3, "I": 4}[kind]
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    entry = struct.pack(f"{order}HHI", 0x0112, number, 1) + value
    return begin + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def turned(pixels: np.ndarray, orientation: int, form: str, **options) -> bytes:
    """Return an image that is stored turned, and whose EXIF says how to turn it upright."""
    back = BACK[orientation]
    image = Image.fromarray(pixels)
    stored = image if back is None else image.transpose(Image.Transpose(back))
    if form == "TIFF":
        data = Image.Exif()
        data[0x0112] = orientation
        return encode(stored, form, exif=data, **options)
    return encode(stored, form, exif=b"Exif\0\0" + exif(orientation), **options)


def png(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of the chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


def chunk(kind_and_data: tuple[bytes, bytes]) -> bytes:
    """Return one chunk of a PNG."""
    kind, data = kind_and_data
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 8, kind: int = 2) -> tuple[bytes, bytes]:
    """Return the first chunk; kinds: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)


def raw_png(values: np.ndarray, *, kind: int, further: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a PNG of values of 8 or 16 bits, [row, column, channel], with further chunks before its pixels."""
    height, width = values.shape[:2]
    rows = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    first = png_header(width, height, 8 * values.dtype.itemsize, kind)
    return png([first, *further, (b"IDAT", zlib.compress(data)), (b"IEND", b"")])


def tiff(
    values: np.ndarray,
    *,
    order: Literal["<", ">"] = "<",
    photometric: int | None = None,
    extra: int | None = None,
    orientation: int = 1,
    is_planar: bool = False,
    tags: dict[int, tuple[str, Sequence[int]]] | None = None,
) -> bytes:
    """Return an uncompressed TIFF of any integers or floating-point numbers, [row, column, channel]."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    laid = np.moveaxis(values, 2, 0) if is_planar else values
    pixels = laid.astype(values.dtype.newbyteorder(order)).tobytes()
    plane = len(pixels) // channels
    strips = [8 + plane * number for number in range(channels)] if is_planar else [8]
    sizes = [plane] * channels if is_planar else [len(pixels)]
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * values.dtype.itemsize] * channels),
        259: ("H", [1]),
        262: ("H", [photometric if photometric is not None else 2 if channels >= 3 else 1]),
        273: ("I", strips),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", sizes),
        284: ("H", [2 if is_planar else 1]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * channels),
    }
    if extra is not None:
        entries[338] = ("H", [extra])
    return _tiff_of(pixels, entries | (tags or {}), order)


def _tiff_of(pixels: bytes, entries: dict[int, tuple[str, Sequence[int]]], order: str) -> bytes:
    start = 8 + len(pixels)
    directory, data = struct.pack(f"{order}H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, (form, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        if len(packed) > 4:
            field, data = struct.pack(f"{order}I", after + len(data)), data + packed
        else:
            field = packed.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, {"B": 1, "H": 3, "I": 4}[form], len(numbers)) + field
    begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return begin + pixels + directory + bytes(4) + data


# ---- colour profiles

DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
WHITE = (0.9642, 1.0, 0.8249)  # of the profile connection space: D50


def rgb_profile(primaries: Sequence[Sequence[float]], gamma: float) -> bytes:
    """Return a profile of primaries, each XYZ of D50, and a power for the curve."""
    tags = {b"wtpt": _xyz(WHITE), b"desc": _description()}
    for letter, primary in zip("rgb", primaries, strict=True):
        tags[f"{letter}XYZ".encode()] = _xyz(primary)
        tags[f"{letter}TRC".encode()] = _curve(gamma)
    return _profile(b"RGB ", b"mntr", tags)


def grey_profile(gamma: float) -> bytes:
    """Return a profile of greys with a power for the curve."""
    return _profile(b"GRAY", b"mntr", {b"wtpt": _xyz(WHITE), b"desc": _description(), b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Return a profile in which paper is white, full ink of any sort is mid grey, and two or more are black."""
    corners = []
    for inks in itertools.product((0, 1), repeat=4):
        lightness = {0: 255, 1: 128}.get(sum(inks), 0)
        corners.append(bytes((lightness, 128, 128)))
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table += identity * 4 + b"".join(corners) + identity * 3
    return _profile(b"CMYK", b"prtr", {b"wtpt": _xyz(WHITE), b"desc": _description(), b"A2B0": table}, space=b"Lab ")


def _profile(colours: bytes, kind: bytes, tags: dict[bytes, bytes], *, space: bytes = b"XYZ ") -> bytes:
    directory, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        directory += name + struct.pack(">II", start + len(data), len(content))
        data += padded
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"test", 0x02400000, kind, colours, space, bytes(12), b"acsp")
    header += bytes(68 - len(header)) + struct.pack(">3i", *(round(value * 65536) for value in WHITE))
    return header.ljust(128, b"\0") + directory + data


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _description() -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)


def from_linear(linear: np.ndarray) -> np.ndarray:
    """Return linear values as sRGB of 8 bits."""
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curved).astype(np.uint8)


def in_srgb(pixels: np.ndarray, primaries: Sequence[Sequence[float]], gamma: float) -> np.ndarray:
    """Return what colours of such a profile are in sRGB."""
    linear = (pixels / 255.0) ** gamma
    return from_linear(linear @ np.array(primaries) @ np.linalg.inv(np.array(SRGB)))


# ---- made to do harm


def many_scans_jpeg(side: int, num_scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated; each makes the decoder go over all blocks."""
    whole = encode(Image.new("RGB", (side, side), (90, 120, 60)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    header = whole.rindex(b"\xff\xc4", 0, last)
    return whole[:header] + whole[header:-2] * num_scans + whole[-2:]


def png_bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """Return a small file of an image larger than the memory."""
    return png([png_header(width, height), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")])


def png_of_claimed_chunk(kind: bytes) -> bytes:
    """Return a file of 49 bytes, one chunk of which claims to have 4 GB."""
    return png([png_header(4, 4)]) + struct.pack(">I", 0xFFFFFFF0) + kind + bytes(8)


def text_bomb(kind: bytes, num_bytes: int, repeats: int = 1) -> bytes:
    """Return a PNG with compressed texts of so many bytes each."""
    packed = zlib.compress(b"\0" * num_bytes, 9)
    data = {b"zTXt": b"a\0\0" + packed, b"iTXt": b"a\0\1\0\0\0" + packed, b"iCCP": b"a\0\0" + packed}[kind]
    return raw_png(scene(8, 8), kind=2, further=[(kind, data)] * repeats)


def gif_of_screen(width: int, height: int) -> bytes:
    """Return a GIF whose frame is of a few pixels, on a screen of many."""
    small = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    small[6:10] = struct.pack("<HH", width, height)
    return bytes(small)


def gif_of_frame(width: int, height: int) -> bytes:
    """Return a GIF whose frame says that it is large."""
    small = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    at = small.rindex(b"\x2c\0\0\0\0")
    small[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(small)


def webp_of_canvas(width: int, height: int) -> bytes:
    """Return a WebP whose canvas is large."""
    whole = bytearray(encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    at = whole.index(b"VP8X")
    whole[at + 12 : at + 18] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(whole)


def tiff_of_claims(**changes: tuple[str, Sequence[int]]) -> bytes:
    """Return a TIFF of a few pixels with other values for tags: tag_256=("I", [70000])."""
    tags = {int(name.removeprefix("tag_")): value for name, value in changes.items()}
    return tiff(scene(4, 4), tags=tags)


def avif_of_size(width: int, height: int) -> bytes:
    """Return an AVIF that declares another size than its image has."""
    whole = bytearray(encode(scene(32, 32), "AVIF"))
    at = whole.index(b"ispe")
    whole[at + 8 : at + 16] = struct.pack(">II", width, height)
    return bytes(whole)
