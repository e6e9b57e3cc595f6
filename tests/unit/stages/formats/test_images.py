"""Images as they come: each gives the right square, or a sentence that names it."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.contract.errors import InputFault
from stages.formats.images import decode_image, square

WHERE = "shard 00000, key 'k'"


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(encoded: bytes, side: int = 8) -> np.ndarray:
    return square(decode_image(encoded, where=WHERE, smallest_side=side), side)


def plain(color: tuple[int, int, int], side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), color)


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG, which already says its size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_the_middle_square_is_cut_out(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
    image.paste("blue", (left, top, left + 20, top + 20))
    np.testing.assert_array_equal(pixels(encode(image)), plain((0, 0, 255)))


def test_greys_become_equal_channels() -> None:
    np.testing.assert_array_equal(pixels(encode(Image.new("L", (9, 9), 77))), plain((77, 77, 77)))
    np.testing.assert_array_equal(pixels(encode(Image.new("1", (9, 9), 1))), plain((255, 255, 255)))


def test_greys_of_16_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    expected = np.round(ramp / 257).astype(np.uint8)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(ramp), form))[:, :, 1], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (200, 200, 200, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    found = pixels(encode(image.convert(mode) if mode != "P" else image.quantize(4)))
    np.testing.assert_array_equal(found[:, :4], 255)
    np.testing.assert_allclose(found[:, 4:], 200, atol=1)


def test_half_transparent_is_mixed_with_white() -> None:
    found = pixels(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))))
    np.testing.assert_allclose(found, 127, atol=1)


def test_cmyk_is_converted() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(pixels(encode(red, "JPEG", quality=100)), plain((255, 0, 0)), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_by_their_exif_orientation(orientation: int) -> None:
    upright = Image.new("RGB", (8, 8), "black")
    upright.paste("white", (0, 0, 4, 2))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # the transposition that undoes it
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encode(stored, exif=exif)), np.asarray(upright))


def test_one_pixel_fills_the_image() -> None:
    np.testing.assert_array_equal(pixels(encode(Image.new("RGB", (1, 1), (1, 2, 3)))), plain((1, 2, 3)))


def test_large_jpeg_is_decoded_at_a_fraction_never_below_the_asked_side() -> None:
    encoded = encode(Image.new("RGB", (800, 640), (10, 200, 30)), "JPEG")
    decoded = decode_image(encoded, where=WHERE, smallest_side=100)
    assert 100 <= min(decoded.size) < 640
    np.testing.assert_allclose(square(decoded, 8), plain((10, 200, 30)), atol=3)
    assert decode_image(encoded, where=WHERE).size == (800, 640)


@pytest.mark.parametrize(
    ("encoded", "fault"),
    [
        (
            png_header(20_000, 20_000),
            r"too large \(20000 x 20000 pixels\): allowed are \d+ pixels: shrink it",
        ),
        (b"no image", "the image cannot be decoded .*: expected a whole JPEG, PNG"),
        (encode(Image.effect_noise((64, 64), 9.0))[:900], "the image cannot be decoded"),
        (
            encode(Image.fromarray(np.full((4, 4), -7.0, np.float32)), "TIFF"),
            "pixels from -7 to -7, of which nobody knows how bright they are",
        ),
    ],
    ids=["huge", "text", "torn", "float"],
)
def test_what_cannot_be_used_is_reported_with_its_position(encoded: bytes, fault: str) -> None:
    with pytest.raises(InputFault, match=f"^shard 00000, key 'k': .*{fault}"):
        pixels(encoded)
