"""PNGs as text that images are generated from: what was written is read, and what others wrote is bounded."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.contract.errors import InputFault
from stages.formats.generated_images import FIELDS, encode_png, pack_pixels, read_png, unpack_embedding, unpack_pixels
from stages.inference.requests import batch_row_from, request_from

PIXELS = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_fields_and_pixels_come_back_and_other_fields_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(PIXELS, {"prompt": "ein Haus 漢", "settings": {"a": 1}, "Software": "x", "evil": "y"}))
    fields, pixels = read_png(path)
    assert fields == {"prompt": "ein Haus 漢", "settings": '{"a": 1}'}
    assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_an_image_that_promises_too_much_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputFault, match="cannot be read as a PNG"):
        read_png(tmp_path / "a.png")


@pytest.mark.parametrize("packed", ["!", "", "AAAA", "iVBORw0KGgo="])
def test_what_is_packed_wrongly_is_a_value_error(packed: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be decoded|no base64"):
        unpack_pixels(packed)


def test_pixels_survive_their_packing() -> None:
    assert np.array_equal(unpack_pixels(pack_pixels(PIXELS)), PIXELS)


KEYS = st.sampled_from(["mode", "seed", "prompt", "image", "kind", "embedding", "strength"])
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9))
TREES = st.recursive(
    PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(KEYS, one, max_size=4), max_leaves=9
)
TEXTS = st.one_of(st.text(max_size=40), st.integers().map(str), TREES.map(json.dumps))
MODES = st.sampled_from(["text", "scene", "variation", "interpolation", "edit", "arithmetic"])
ENDS = st.fixed_dictionaries({"name": st.text(max_size=9), "embedding": st.text(max_size=9)})
RECIPES = st.fixed_dictionaries(
    {"mode": MODES, "seed": st.integers()},
    optional={
        "prompt": st.text(max_size=9),
        "scene": st.dictionaries(st.text(max_size=3), st.integers()),
        "strength": st.floats(),
        "fraction": st.floats(),
        "pixels": st.text(max_size=9),
        "image": ENDS,
    },
).map(json.dumps)


def attempt(read: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """Return what is read, or the error that says why it is not."""
    try:
        return read()
    except refusals as error:
        return error


@settings(derandomize=True, max_examples=400, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted(FIELDS)), TEXTS), recipe=st.none() | RECIPES)
def test_any_fields_are_a_request_or_a_sentence(fields: dict[str, str], recipe: str | None) -> None:
    whole = fields | ({} if recipe is None else {"recipe": recipe})
    request = attempt(lambda: request_from(whole, "x"), InputFault)
    assert str(request).isprintable() if isinstance(request, InputFault) else 0 <= request.seed < 2**63
    row = attempt(lambda: batch_row_from(whole), ValueError, TypeError)
    assert isinstance(row, Exception) or 0 <= row.row < row.size <= 4096


@settings(derandomize=True, max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), cut=st.integers(0, 400), tail=st.booleans())
def test_any_bytes_are_a_png_or_a_sentence(
    content: bytes, cut: int, tail: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    whole = encode_png(PIXELS, {"prompt": "a", "seed": "1"})
    path.write_bytes(whole[:cut] + content + (whole[cut:] if tail else b""))
    found = attempt(lambda: read_png(path), InputFault)
    if isinstance(found, InputFault):
        assert "cannot be read as a PNG" in str(found)
    else:
        assert set(found[0]) <= FIELDS
        assert found[1].ndim == 3


def test_an_embedding_is_finite_numbers() -> None:
    for packed in ("AADAfw==", "x", "AAA="):
        with pytest.raises(ValueError, match=r"finite|base64|buffer"):
            unpack_embedding(packed)


def test_no_image_is_written_with_a_format_of_another_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "BMP")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(InputFault, match="cannot be read as a PNG"):
        read_png(tmp_path / "a.png")


def test_a_png_of_more_pixels_than_any_decoder_makes_is_refused(tmp_path: Path) -> None:
    Image.new("1", (4097, 4096)).save(tmp_path / "large.png")
    with pytest.raises(InputFault, match=r"4097 x 4096 pixels: at most 16,777,216 are read"):
        read_png(tmp_path / "large.png")
