"""Texts of strangers, each as long as may be read: the time for them grows as their length does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tracking_state import image_of
from stages.contract.errors import InputFault
from stages.contract.parsing import load_json
from stages.download_shards.config import HuggingfaceSource, UrlListSource
from stages.download_shards.sources.dataset_layout import dataset_files
from stages.download_shards.sources.url_list import read_url_list
from stages.formats.tar_samples import index_tar
from tests.growth import assert_linear
from tests.hostile.tars import END, header, long_name

READMES: dict[str, tuple[int, Callable[[int], str]]] = {
    "blank lines": (10_000, lambda size: "---\n" + "\n" * size + "x"),
    "line ends": (10_000, lambda size: "---\r\n" + "\r\n" * size),
    "almost an end": (10_000, lambda size: "---\n" + "--- x\n" * size),
    "spaces": (20_000, lambda size: "---" + " " * size + "x\n---\n"),
    "base 60": (20_000, lambda size: "---\na: 1" + ":59" * size + "\n---\n"),
}


@pytest.mark.parametrize("shape", READMES)
def test_the_head_of_a_readme(tmp_path: Path, shape: str) -> None:
    shortest, made = READMES[shape]

    def read(size: int) -> None:
        (tmp_path / "README.md").write_text(made(size), newline="")
        with pytest.raises(InputFault, match=r"no \.arrow or .parquet file in it"):
            dataset_files(HuggingfaceSource(kind="huggingface", path=tmp_path))

    assert_linear(read, shortest)


@pytest.mark.parametrize("part", ["/", "a/", "./", "a.", "__/", "\n/"])
def test_the_names_of_a_tar(tmp_path: Path, part: str) -> None:
    def index(length: int) -> None:
        name = (part * length)[:length] + "x"
        file = tmp_path / f"{length}.tar"
        file.write_bytes((long_name(name) + header("short", size=0)) * 40 + END)
        with file.open("rb") as tar:
            found = index_tar(tar)
        assert found.fault is None
        assert len(found.samples) + len(found.skipped) > 0

    assert_linear(index, 1000)


def test_the_header_of_a_list(tmp_path: Path) -> None:
    def read(columns: int) -> None:
        names = [f"c{number}" for number in range(columns)]
        (tmp_path / "list.csv").write_text(",".join(["url", *names, "c0"]) + "\n")
        with pytest.raises(InputFault, match="several columns are named c0"):
            read_url_list(UrlListSource(kind="url_list", path=str(tmp_path / "list.csv"), caption_column=None))
        (tmp_path / "list.json").write_text(json.dumps({"columns": [*names, *names], "data": []}))
        with pytest.raises(InputFault, match=r"several columns are named c0, .*, …"):
            read_url_list(UrlListSource(kind="url_list", path=str(tmp_path / "list.json"), caption_column=None))

    assert_linear(read, 4000)


def test_a_key_that_is_given_twice() -> None:
    def read(keys: int) -> None:
        pairs = ",".join(f'"k{number}":1' for number in [*range(keys), keys - 1])
        with pytest.raises(ValueError, match=f"given twice: 'k{keys - 1}'"):
            load_json(f"{{{pairs}}}", unique_keys=True)

    assert_linear(read, 4000)


def test_the_name_of_a_logged_image() -> None:
    assert_linear(lambda size: image_of("images/" * size), 5000)
