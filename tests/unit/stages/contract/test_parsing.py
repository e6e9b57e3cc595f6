import contextlib
import io
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.contract.parsing import MAX_JSON_DEPTH, clean_text, is_text, load_json, parsing, shown

MAYBE_SURROGATES = st.text(st.characters(exclude_categories=()), max_size=20)


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError(), MemoryError(), AssertionError(), struct.error("s")]
)
def test_whatever_a_parser_raises_becomes_the_cause(error):
    with pytest.raises(ItemFault) as caught, parsing(FailureCause.BAD_CAPTION_FILE, "a\n.json"):
        raise error
    assert caught.value.cause is FailureCause.BAD_CAPTION_FILE
    assert str(caught.value).startswith("caption file is damaged: a\\n.json: ")


def test_it_becomes_the_error_that_is_made_of_the_reason():
    with (
        pytest.raises(InputFault, match=r"^list\.csv \(ValueError: a b\)$"),
        parsing(lambda reason: InputFault(f"list.csv ({reason})")),
    ):
        raise ValueError("a\nb")


def test_what_is_no_fault_of_the_data_passes():
    for error in (ItemFault(FailureCause.NO_IMAGE), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)) as caught, parsing(FailureCause.BAD_CAPTION_FILE):
            raise error
        assert caught.value is error


def test_the_reason_is_the_same_in_every_run():
    reasons = set()
    for _ in range(2):
        with pytest.raises(ItemFault) as caught, parsing(FailureCause.CORRUPT_IMAGE):
            Image.open(io.BytesIO(b"nothing"))
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


@pytest.mark.parametrize("depth", [10, 900, 100_000, 5_000_000])
def test_json_is_bounded_in_depth(depth):
    with pytest.raises(ValueError, match="nested deeper than 5"):
        load_json("[" * depth + "]" * depth, max_depth=5)


def test_json_at_the_greatest_depth_is_read():
    content = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert json.dumps(load_json(content)) == content


def test_json_is_bounded_in_size_and_may_begin_with_a_mark():
    assert load_json(b"\xef\xbb\xbf{}") == {}
    with pytest.raises(ValueError, match="at most 10 are read"):
        load_json("[1, 2, 3, 4, 5]", max_bytes=10)


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_not():
    for content in (r'{"a": "\ud800"}', r'["\uDFFF"]', r'{"\udbff x": 1}', '"\ud800"'):
        with pytest.raises(ValueError, match="surrogate"):
            load_json(content)
    assert load_json(r'{"a": "\ud83c\udfa8", "b": "\\ud800"}') == {"a": "🎨", "b": "\\ud800"}


@given(MAYBE_SURROGATES)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_cleaned_text_can_be_written_and_a_valid_one_stays(text):
    cleaned = clean_text(text)
    assert is_text(cleaned)
    assert cleaned == text or not is_text(text)
    assert is_text(shown(text))
    assert shown(text).isprintable()


@given(st.binary(max_size=60) | MAYBE_SURROGATES)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_json_is_a_value_or_a_value_error(content):
    with contextlib.suppress(ValueError):  # and nothing else
        json.dumps(load_json(content), ensure_ascii=False).encode()
