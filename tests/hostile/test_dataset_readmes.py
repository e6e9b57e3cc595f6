"""Configs in the head of a dataset's README.md: the files of one split of one config are read, as globs name them."""

from pathlib import Path
from typing import Any

import pytest

from stages.contract.errors import InputFault
from stages.download_shards.check import check
from stages.download_shards.sources.dataset_layout import dataset_files
from tests.hostile.datasets import write_parquet
from tests.hostile.test_datasets import config_of, convert, reds, source_of


def dataset(root: Path, names: list[str], configs: str) -> Path:
    """Make a folder of empty files and a README.md that declares configs."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return root


def chosen(root: Path, **source: Any) -> tuple[list[str], int]:
    found = dataset_files(source_of(root, **source))
    return [path.relative_to(root).as_posix() for path in found.paths], found.missing.count


def test_configs_of_the_readme_count(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, red in (("a.parquet", 10), ("b.parquet", 20), ("c.parquet", 99)):
        write_parquet(folder / name, [red])
    head = "configs:\n- config_name: small\n  data_files:\n  - split: train\n    path: [a.parquet, 'b.*']\n"
    head += "- config_name: other\n  data_files: c.parquet\n"
    (folder / "README.md").write_text(f"---\n{head}---\n# A dataset\n")
    with pytest.raises(InputFault, match=r"several of config_name \(other, small\)"):
        check(config_of(folder))
    convert(folder, tmp_path / "out", config_name="small")
    assert reds(tmp_path / "out") == [10, 20]
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nconfigs: [*b]\n"
    (folder / "README.md").write_text(f"---\n{bomb}---\n")
    with pytest.raises(InputFault, match=r"README\.md: its head cannot be read .*references"):
        check(config_of(folder))


def test_the_rows_of_one_config_are_not_those_of_another_below_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", [10])
    write_parquet(tmp_path / "in/hard/b.parquet", [99])
    head = "- config_name: default\n  data_files: '*.parquet'\n- config_name: hard\n  data_files: 'hard/*.parquet'\n"
    (tmp_path / "in/README.md").write_text(f"---\nconfigs:\n{head}---\n")
    with pytest.raises(InputFault, match=r"several of config_name \(default, hard\)"):
        check(config_of(tmp_path / "in"))
    summary = convert(tmp_path / "in", tmp_path / "out", config_name="default")
    assert (summary.counts["rows"], reds(tmp_path / "out")) == (1, [10])


def test_files_at_the_top_are_found_by_two_asterisks_and_missed_by_their_numbers(tmp_path: Path) -> None:
    names = ["train-00000-of-00003.parquet", "x/train-00001-of-00002.parquet"]
    declared = "- config_name: default\n  data_files:\n  - split: train\n    path: '{}'\n"
    dataset(tmp_path, names, declared.format("**/train-*.parquet"))
    assert chosen(tmp_path, allow_missing_files=True) == (names, 3)
    dataset(tmp_path, names, declared.format("train-*.parquet"))
    assert chosen(tmp_path, allow_missing_files=True) == (names[:1], 2)  # in x/, none is of this pattern


def test_the_folder_of_a_config_holds_its_files(tmp_path: Path) -> None:
    names = ["en/a.parquet", "fr/train-0.parquet", "fr/test-0.parquet", "test_de/a.parquet"]
    configs = "- config_name: en\n  data_dir: ./en/\n  data_files: '*.parquet'\n- {config_name: fr, data_dir: fr}\n"
    dataset(tmp_path, names, configs + "- {config_name: de, data_dir: test_de}\n")
    with pytest.raises(InputFault, match=r"several of config_name \(de, en, fr\)"):
        chosen(tmp_path)
    assert chosen(tmp_path, config_name="en", split="train") == (["en/a.parquet"], 0)
    assert chosen(tmp_path, config_name="de", split="train") == (["test_de/a.parquet"], 0)
    with pytest.raises(InputFault, match=r"several of split \(test, train\)"):
        chosen(tmp_path, config_name="fr")
    assert chosen(tmp_path, config_name="fr", split="test") == (["fr/test-0.parquet"], 0)


def test_numbers_that_are_missing_in_the_folder_of_a_config_are_counted(tmp_path: Path) -> None:
    names = ["en/train-00000-of-00002.parquet", "fr/train-00000-of-00002.parquet"]
    dataset(tmp_path, names, "- {config_name: en, data_dir: en}\n- {config_name: fr, data_dir: fr}\n")
    with pytest.raises(InputFault, match=r"holds 1 of 2 files .*: en/train-00001-of-00002\.parquet"):
        chosen(tmp_path, config_name="en")


def test_a_config_without_files_or_a_folder_is_refused_beside_others(tmp_path: Path) -> None:
    dataset(tmp_path, ["a.parquet", "b.parquet"], "- {config_name: x, data_files: a.parquet}\n- config_name: y\n")
    with pytest.raises(InputFault, match=r"several of config_name \(x, y\)"):
        chosen(tmp_path)
    assert chosen(tmp_path, config_name="x") == (["a.parquet"], 0)
    with pytest.raises(InputFault, match=r"of y neither data_files nor data_dir: .*: give it one of these, or choose"):
        chosen(tmp_path, config_name="y")
    dataset(tmp_path, [], "- config_name: y\n")
    assert chosen(tmp_path) == (["a.parquet", "b.parquet"], 0)  # the only one: all files are its


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ("- {config_name: x, data_files: b.parquet}\n", r"its README\.md names none of the \.arrow or \.parquet files"),
        ("- {config_name: x, data_files: 'a**'}\n", r"pattern 'a\*\*': \*\* is allowed as a whole part of a path"),
        ("- {config_name: x, data_files: a.parquet}\n" * 2, r"declares split 'train' of config 'x' twice"),
    ],
)
def test_what_a_readme_cannot_mean_is_refused(tmp_path: Path, configs: str, words: str) -> None:
    dataset(tmp_path, ["a.parquet"], configs)
    with pytest.raises(InputFault, match=words):
        chosen(tmp_path)
