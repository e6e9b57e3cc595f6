"""The decoder on bytes that were changed anywhere: an image of the size that the header names, or a counted fault."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contract.errors import FailureCause, ItemFault
from stages.formats.image_decoding.decoding import check, decode
from stages.formats.image_decoding.header import orientation_in
from stages.formats.image_decoding.recognition import DECODED, recognise
from stages.formats.image_decoding.samples import to_bytes, white_of
from tests.hostile import image_files as files

SCENE = files.scene(24, 16)
MAX_PIXELS = 1_000_000
BOUNDED = settings(derandomize=True, max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
WHOLE = {
    "JPEG": files.turned(SCENE, 6, "JPEG", icc_profile=files.rgb_profile(files.ADOBE_RGB, 2.2)),
    "progressive JPEG": files.encode(SCENE, "JPEG", progressive=True),
    "PNG": files.turned(SCENE, 6, "PNG", icc_profile=files.rgb_profile(files.ADOBE_RGB, 2.2)),
    "PNG of 16 bits": files.raw_png(SCENE.astype(np.uint16) * 257, kind=2),
    "WebP": files.turned(SCENE, 6, "WEBP"),
    "GIF": files.encode(SCENE[..., 0], "GIF"),
    "BMP": files.encode(SCENE, "BMP"),
    "TIFF": files.turned(SCENE, 6, "TIFF", compression="tiff_lzw"),
    "TIFF of numbers": files.tiff((SCENE / 255).astype(np.float32)),
    "AVIF": files.encode(SCENE, "AVIF"),
}
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4)


def attempt(content):
    """Decode, and check that there is an image within limits or a fault of the item."""
    found, words = None, ""
    try:
        found = decode(content, max_pixels=MAX_PIXELS)
    except ItemFault as fault:
        words = str(fault)
    assert words.isprintable()
    if found is not None:
        assert found.image.mode == "RGB"
        assert found.image.size == (found.width, found.height)
        assert found.width * found.height <= MAX_PIXELS


@pytest.mark.parametrize("name", WHOLE)
@BOUNDED
@given(changes=CHANGES, kept=st.floats(0.05, 1))
def test_changed_and_cut_files_give_an_image_or_a_fault(name, changes, kept):
    content = bytearray(WHOLE[name])
    for part, data in changes:
        at = int(part * len(content))
        content[at : at + len(data)] = data
    attempt(bytes(content[: int(kept * len(content)) + 1]))


@pytest.mark.parametrize("name", WHOLE)
@BOUNDED
@given(rest=st.binary(max_size=200))
def test_anything_after_the_beginning_of_a_format_gives_an_image_or_a_fault(name, rest):
    attempt(WHOLE[name][:16] + rest)


@BOUNDED
@given(content=st.binary(max_size=64))
def test_any_bytes_have_a_format_or_none(content):
    assert isinstance(recognise(content), str)
    attempt(content)


@BOUNDED
@given(content=st.binary(max_size=80))
def test_any_exif_has_an_orientation(content):
    assert orientation_in(content) in range(1, 9)
    assert orientation_in(b"Exif\0\0II*\0\x08\0\0\0" + content) in range(1, 9)


@BOUNDED
@given(value=st.integers(0, 2**32 - 1), order=st.sampled_from("<>"))
def test_an_orientation_without_a_meaning_is_none(value, order):
    assert orientation_in(files.exif(value, order=order, kind="I")) == (value if 1 <= value <= 8 else 1)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(name):
    found = check(WHOLE[name], max_pixels=MAX_PIXELS)
    assert found.form in DECODED
    assert found.form in name
    upright = (16, 24) if name == "GIF" else (24, 16)
    assert sorted(found.header.upright_size) == sorted(upright)


@pytest.mark.parametrize(
    ("values", "depth", "white"),
    [
        (np.array([[0, 4095]], np.uint16), 12, 4095),
        (np.array([[0, 100]], np.uint16), 16, 65535),
        (np.array([[0, 200]], np.int32), 32, 255),
        (np.array([[0, 40_000]], np.int32), 32, 65535),
        (np.array([[0, 2**30]], np.int32), 32, 2**31 - 1),
        (np.array([[0, 2**31]], np.uint32), 32, 2**32 - 1),
        (np.array([[0.0, 0.02]], np.float32), 32, 1),
        (np.array([[-0.03, 1.04]], np.float32), 32, 1),
        (np.array([[0, 200.5]], np.float32), 32, 255),
        (np.array([[0, 30_000]], np.int16), 16, 32767),
    ],
)
def test_white_is_the_smallest_that_no_value_exceeds(values, depth, white):
    assert white_of(values, depth) == white
    assert to_bytes(np.array([[0, white]]), white).tolist() == [[0, 255]]
    assert to_bytes(np.array([[0, white]]), white, is_inverted=True).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-5, 100]], np.int32),
        np.array([[0, 3]], np.int32),  # labels, it seems
        np.array([[0, 70_000]], np.int32),
        np.array([[0.0, 2.0]]),
        np.array([[0.0, 1e9]]),
        np.array([[0.0, np.inf]]),
    ],
)
def test_values_of_unknown_brightness_are_refused(values):
    with pytest.raises(ItemFault, match="unsupported image format: pixels"):
        white_of(values, 32)


def test_a_jpeg_that_opencv_gets_as_it_is_has_the_same_pixels():
    import cv2

    noise = np.random.default_rng(5).integers(0, 256, (61, 83, 3), np.uint8)
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            content = files.encode(noise, "JPEG", subsampling=subsampling, progressive=progressive, comment=b"a")
            found = check(content, max_pixels=MAX_PIXELS)
            assert found.is_plain_jpeg
            theirs = cv2.imdecode(np.frombuffer(found.header.content, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
            np.testing.assert_array_equal(np.asarray(found.decode().image), theirs)
    for content in (files.turned(SCENE, 6, "JPEG"), WHOLE["JPEG"], files.encode(SCENE[..., 0], "JPEG")):
        assert not check(content, max_pixels=MAX_PIXELS).is_plain_jpeg


def test_segments_beside_the_pixels_are_kept_from_the_decoder():
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 9) + b"a comment"
    plain = files.encode(SCENE, "JPEG")
    found = check(plain[:2] + comment * 50 + plain[2:], max_pixels=MAX_PIXELS)
    assert found.header.content == plain


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (8, 0), (8, 3), (8, 2), (8, 6)])
def test_a_png_with_fewer_pixels_than_its_header_names_is_damaged(depth: int, colour: int, interlace: int) -> None:
    width, height, samples = 13, 9, {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, right, down in passes if interlace else [(0, 0, 1, 1)]:
        columns, count = len(range(left, width, right)), len(range(top, height, down))
        rows += (b"\0" + bytes((columns * depth * samples + 7) // 8)) * count if columns else b""

    def png(pixels: bytes) -> bytes:
        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
        chunks = [(b"IHDR", head), (b"PLTE", bytes(6)), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
        if colour in (0, 2, 6):
            del chunks[1]
        packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(packed)

    assert decode(png(rows), max_pixels=MAX_PIXELS).image.size == (width, height)
    with pytest.raises(ItemFault) as caught:
        decode(png(rows[:-1]), max_pixels=MAX_PIXELS)
    assert caught.value.cause is FailureCause.CORRUPT_IMAGE
