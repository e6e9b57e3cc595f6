"""Columns of Hugging Face folders that have one name."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract.errors import InputFault
from stages.download_shards.check import check
from tests.hostile.datasets import IMAGE, table_of, write_arrow
from tests.hostile.tars import png
from tests.hostile.test_datasets import config_of, convert, reds

ROWS = table_of([10, 20])
TEXTS = pa.array(["a", "b"])
IMAGES = ROWS["image"]


def named(**columns: pa.Array) -> pa.Table:
    """Return images and further columns, of whose names what follows __ is left out."""
    return pa.table([IMAGES, *columns.values()], names=["image", *(name.partition("__")[0] for name in columns)])


def struct(names: list[str]) -> pa.Array:
    return pa.StructArray.from_arrays([TEXTS] * len(names), names=names)


def image_of_two_paths() -> pa.Table:
    images = pa.StructArray.from_arrays([pa.array([png(10), png(20)]), TEXTS, TEXTS], names=["bytes", "path", "path"])
    return pa.table({"image": images, "text": TEXTS})


TABLES: dict[str, tuple[str, Callable[[], pa.Table]]] = {
    "captions": ("text", lambda: named(text=TEXTS, text__2=TEXTS)),
    "images": ("image", lambda: named(image__2=IMAGES, text=TEXTS)),
    "others": ("x", lambda: named(text=TEXTS, x=TEXTS, x__2=pa.array([1, 2]))),
    "fields of an image": ("path", image_of_two_paths),
}


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_name_that_several_columns_have_is_refused_in_a_sentence(tmp_path: Path, kind: str, form: str) -> None:
    name, make = TABLES[kind]
    write_arrow(tmp_path / "a.arrow", make())
    if form == "parquet":
        (tmp_path / "a.arrow").unlink()
        pq.write_table(make(), tmp_path / "a.parquet")
    with pytest.raises(InputFault) as caught:
        check(config_of(tmp_path))
    assert str(caught.value) == (
        f"download_shards.source.path: {tmp_path}/a.{form} cannot be read (several columns are named {name}): "
        "give each its own name"
    )


def test_names_that_are_those_of_other_columns_fields_are_read(tmp_path: Path) -> None:
    bytes_alone = pa.StructArray.from_arrays([pa.array([b"1", b"2"])] * 2, names=["x", "x"])  # which is left out
    pq.write_table(named(text=TEXTS, x=struct(["x", "text"]), left_out=bytes_alone), tmp_path / "a.parquet")
    assert IMAGES.type == IMAGE
    convert(tmp_path, tmp_path / "out")
    assert reds(tmp_path / "out") == [10, 20]
