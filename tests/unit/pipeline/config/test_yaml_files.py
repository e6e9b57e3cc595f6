"""YAML from anybody: bounded in size, depth and repetition; whatever it holds is a mapping or one sentence."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.loading import load_config
from pipeline.config.yaml_files import DEEPEST, LARGEST_FILE, MOST_VALUES, parse_yaml, read_yaml
from pipeline.errors import UsageError
from stages.contract.texts import printable

SECRET = "s3cr3t-" * 40
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {p: [1, 2, 3]}\n" + "".join(
    f"{name}: &{name} {{<<: *{before}, l: *{before}, r: *{before}}}\n"
    for before, name in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True)
)
CHAIN = "k0: &k0 [[[[[[[[1]]]]]]]]\n" + "".join(f"k{n}: &k{n} [[[[[[[[*k{n - 1}]]]]]]]]\n" for n in range(1, 50))

REFUSED = {
    "billion laughs": (LAUGHS, "more than 100,000 values"),
    "merged laughs": (MERGED, "more than 100,000 values"),
    "depth": (f"a: {'[' * 5000}{']' * 5000}", "nested deeper than"),
    "depth by aliases": (CHAIN, "nested deeper than"),
    "inside itself": ("a: &a [*a]", "holds it"),
    "inside itself, mapping": ("a: &a {b: *a}", "holds it"),
    "key twice": ("seed: 1\nname: x\nseed: 2\n", "line 3, column 1: the key 'seed' is given twice"),
    "key twice, below": ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2"),
    "a python object": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "key twice, in a list": ("a: [1, {b: 1, b: 2}]", "line 1, column 15: the key 'b' is given twice"),
    "key twice, merged": ("a: &a {b: 1, b: 2}\nc: {<<: *a}\n", "line 1, column 14: the key 'b' is given twice"),
    "key twice, merged in place": ("c: {<<: {b: 1, b: 2}}\n", "line 1, column 16: the key 'b' is given twice"),
    "key twice, beside a merge": ("a: &a {b: 1}\nc: {<<: *a, b: 2, b: 3}\n", "line 2, column 19: the key 'b'"),
    "a set": ("a: !!set {b, c}", "line 1, column 4: found !!set; write a text, a list or a mapping"),
    "bytes": ("a: [!!binary aGVsbG8=]", "line 1, column 5: found !!binary; write a text"),
    "pairs": ("a: !!omap [b: c]", "line 1, column 4: found !!omap; write a text"),
    "two merges": (
        "a: &a {b: 1}\nc: &c {d: 1}\ne:\n  <<: *a\n  <<: *c\n",
        "line 5, column 3: the key << is given twice",
    ),
    "a date that is none": ("a: 1\nb: 2001-13-45", "line 2, column 4: a value cannot be read as a date (ValueError)"),
    "a date by tag": ("a: !!timestamp x", "line 1, column 4: a value cannot be read as a date"),
    "a truth by tag": ("a: !!bool x", "line 1, column 4: a value cannot be read"),
    "a number by tag": ("a: !!int x", "line 1, column 4: a value cannot be read as an integer"),
    "too many digits": (f"a: {'9' * 10_000}", "line 1, column 4: a value cannot be read as an integer"),
    "a date as a key": ("a: {2001-13-45: 1}", "line 1, column 5: a value cannot be read as a date"),
    "a key that is a list": ("a: 1\n? [1, 2]\n: 3\n", "line 2, column 3: found a list as a key; expected a text"),
    "a key that is a mapping": ("{? {a: b}: 3}", "line 1, column 4: found a mapping as a key; expected a text"),
    "a number as section": ("1: 2", "found the key 1"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "control characters": ("a: \x1b[31m", "special characters are not allowed"),
    "no end": ('a: "' + SECRET, "line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_bounds_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, words = REFUSED[name]
    path = tmp_path / "x.yaml"
    path.write_text(text)
    begun = time.monotonic()
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert time.monotonic() - begun < 50
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert SECRET[:30] not in str(caught.value)


def test_aliases_within_bounds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": [{"b": 1, "c": 2}] * 2}


def test_a_merge_is_read_wherever_its_mapping_is_anchored() -> None:
    text = """
train_prior:
  training:
    optimizer: &base {a: 1, b: 3}
    mine: &mine
      <<: *base
      a: 2
train_decoder:
  training:
    <<: *mine
  again: {<<: [*mine, *base], c: 4}
"""
    mine = {"a": 2, "b": 3}
    assert parse_yaml(text, "x") == {
        "train_prior": {"training": {"optimizer": {"a": 1, "b": 3}, "mine": mine}},
        "train_decoder": {"training": mine, "again": {**mine, "c": 4}},
    }


MISREAD = {
    "octal": ("a: 1\nb: 010", 'x: line 2, column 4: found 010, which YAML reads as 8 (octal); write 8 or 10, or "010"'),
    "octal, signed": ("a: -0_17", 'found -0_17, which YAML reads as -15 (octal); write -15 or -17, or "-0_17" with'),
    "an agent": ("[007]", 'found 007, which YAML reads as 7 (octal); write 7, or "007" with its quotes if it is a'),
    "base 60": ("a: [x, 1:30]", 'found 1:30, which YAML reads as 90 (of base 60); write 90, or "1:30" with its quotes'),
    "base 60, fraction": ("1:30.5", "found 1:30.5, which YAML reads as 90.5 (of base 60); write 90.5, or"),
    "as a key": ("a: {12:30: x}", "line 1, column 5: found 12:30, which YAML reads as 750"),
    "by tag": ("a: !!int 010", "found 010, which YAML reads as 8"),
    "long": (f"a: 0{'1' * 5000}", "column 4: found a number that begins with 0; write it in base 10, or in quotes"),
    "secret": ("a: {password: 0123}", "column 15: found a number that begins with 0; write it in base 10, or"),
    "of a store": ("storage: {options: {s3: {a: 1:23}}}", "found a number of base 60; write it in base 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISREAD)
def test_a_number_that_may_be_misread_is_one_sentence(name: str) -> None:
    text, words = MISREAD[name]
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "x")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_override_shows_the_quotes_that_the_shell_leaves(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(UsageError) as caught:
        load_config(path, ["name=007"])
    assert "name: line 1, column 1: found 007, " in str(caught.value)
    assert "write 7, or '\"007\"' with its quotes" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        load_config(path, ["generate.prompts.texts=[a, 12:30]"])
    assert 'write 750, or "12:30" with its quotes' in str(caught.value)


def test_what_is_read_alike_and_what_is_quoted_stays() -> None:
    text = """["010", '1:30', !!str 007, 0, -0, 0.5, 00.5, 0x1F, 0b11, 1_000, 08:30, a:10, 1e-4, 127.0.0.1:80, 089]"""
    found = ["010", "1:30", "007", 0, 0, 0.5, 0.5, 31, 3, 1000, "08:30", "a:10", "1e-4", "127.0.0.1:80", "089"]
    assert parse_yaml(text, "x") == found


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert read_yaml(path) == {"seed": 3}


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (LARGEST_FILE + 1))
    (tmp_path / "latin").write_bytes("name: caf\u00e9".encode("latin-1"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in {
        "fifo": "is no file", "large": "is larger than", "latin": "is not UTF-8 (byte 9)", "loop": "is no path",
        "none": "no such file", "a\0b": "is no path", ".": "is no file", "x" * 300: "too long",
    }.items():  # fmt: skip
        with pytest.raises(UsageError) as caught:
            load_config(tmp_path / name)
        assert words in str(caught.value), name
        assert "\0" not in str(caught.value)
    with pytest.raises(UsageError, match="is no file"):
        read_yaml(Path("/dev/zero"))


def test_a_long_chain_of_bases_is_refused(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    with pytest.raises(UsageError, match="extends more than 32 files"):
        load_config(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a" * 100_000, "not an override"),
        ("seed=" + "1" * 70_000, "a value at most 65,536 characters"),
        ("seed=" + "1" * 5000, "a value cannot be read"),
        (".".join("a" * 40) + "=1", "a key has 1 to 32 names"),
        ("a..b=1", "a key has 1 to 32 names"),
        (".=1", "a key has 1 to 32 names"),
        ("seed=[[[", "seed: is not valid YAML"),
        ("seed=" + "[" * 500, "nested deeper"),
        ("seed=!!python/name:os.system", "could not determine a constructor"),
        ("clip.models.99999999999999999999=1", "is not an index"),
        ("clip.models.\u0663=1", "is not an index"),
        ("\x1b[31mname=1", "\N{SYMBOL FOR ESCAPE}[31mname: unknown key"),
        ("tracking.uri=[http://user:hunter2@host]", "tracking.uri: found ['http://…@host']"),
        (f"name={SECRET}!", "name: found 's3cr3t-"),
    ],
)
def test_an_override_that_cannot_be_used_is_one_sentence(word: str, words: str) -> None:
    quickstart = Path(__file__).resolve().parents[4] / "configs" / "quickstart.yaml"
    with pytest.raises(UsageError) as caught:
        load_config(quickstart, [word])
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2200
    assert SECRET not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def sentence(read: Callable[[], object]) -> str:
    """Return the error of what reads, which a terminal may show; nothing where it is read."""
    try:
        read()
    except UsageError as error:
        found = str(error)
    else:
        found = ""
    assert printable(found) == found
    return found


SIGNS = (*":-[]{}'\"#|>?~%@, \n\t", "a", "&a", "*a", "!!int", "<<", "1", "e9", "0x", "2001-01-01", "\x00", chr(0xD800))
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(SIGNS), max_size=60).map("".join)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(TEXTS)
def test_any_text_is_a_value_or_a_sentence(text: str) -> None:
    found = sentence(lambda: parse_yaml(text, "x"))
    assert found.startswith("x: is not valid YAML: " if found else "")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(word=st.text(max_size=60))
def test_any_override_is_taken_or_a_sentence(word: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "small.yaml"
    path.write_text("download_shards: {source: {kind: folder, path: .}}")
    sentence(lambda: load_config(path, [word]))


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["kind", "name", "seed", "clip", "models", "path", "training", "x"]), inner,
                        max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip
SECTIONS = (
    "seed captions clip reuse storage tracking cluster download_shards embed_clip fit_gaussians train_prior "
    "train_decoder generate evaluate extends name store"
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(tree=st.dictionaries(st.sampled_from(SECTIONS.split()), TREES, min_size=1, max_size=4))
def test_any_tree_is_an_experiment_or_a_sentence(
    tree: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import yaml

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    found = sentence(lambda: load_config(path))
    assert found.startswith(str(path.parent) if found else "")
    assert len(found) < 50_000


def test_the_bounds_are_wide_enough_for_what_the_project_ships() -> None:
    for path in (Path(__file__).resolve().parents[4] / "configs").rglob("*.yaml"):
        assert read_yaml(path)
    assert DEEPEST >= 32
    assert MOST_VALUES >= 100_000
