"""Text from outside: visible signs for what would change a terminal, one line, short, and no credentials."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract.texts import by_number, one_line, printable, show_value

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=200)
JOINERS = "\u200c\u200d"  # letters of Persian, and emoji, are joined by them


def test_what_changes_a_terminal_becomes_a_sign() -> None:
    assert printable("a\x1b[31mb\x07\x7f\x9b\u202e\u2066\ud800\nc\td") == "a␛[31mb␇␡\ufffd\ufffd\ufffd\ufffd\nc\td"


def test_letters_and_emoji_stay() -> None:
    text = "ñ 漢字 עברית \u200cنمی\u200dخواهم 👩\u200d🚀 e\u0301 ™ [bold]x[/] :smile:"
    assert printable(text) == text


def test_a_line_is_one_and_no_longer_than_asked() -> None:
    assert one_line("a\r\nb\tc") == "a␍␤b c"
    assert len(one_line("x" * 1000, 50)) == 50
    assert one_line("x" * 50, 50) == "x" * 50


def test_a_value_is_short_and_without_credentials() -> None:
    assert show_value({"uri": "https://me:pw@host/x"}) == "{'uri': 'https://…@host/x'}"
    assert len(show_value("y" * 10_000)) <= 80
    assert len(show_value([["z" * 500] * 500] * 500)) <= 80
    assert show_value("a\x1bb\nc") == r"'a\x1bb\nc'"


@settings(derandomize=True, max_examples=300, deadline=None)
@given(ANYTHING)
def test_nothing_that_is_no_text_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]
    assert not [c for c in shown if unicodedata.bidirectional(c) in {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI"}]
    assert printable(shown) == shown
    assert "\n" not in one_line(text)


def test_names_are_sorted_by_their_numbers() -> None:
    names = ["mmd/steps_16", "mmd/steps_2", "mmd", "cosine/time_1000", "cosine/time_62", "mmd/steps_2/b", "2", "10"]
    assert sorted(names, key=by_number) == [
        "2", "10", "cosine/time_62", "cosine/time_1000", "mmd", "mmd/steps_2", "mmd/steps_2/b", "mmd/steps_16",
    ]  # fmt: skip
