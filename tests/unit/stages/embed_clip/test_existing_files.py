"""Metadata of embeddings that others made: texts as written, or a sentence that names the column."""

from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract.errors import InputFault
from stages.embed_clip.config import ExistingEmbeddings
from stages.embed_clip.existing_files import list_parts, read_part


def read(folder, table, **settings):
    rows = np.ones((len(table), 4), dtype=np.float32)
    for kind in ("img_emb", "text_emb"):
        (folder / kind).mkdir()
        np.save(folder / kind / f"{kind}_0.npy", rows)
    (folder / "metadata").mkdir()
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet", row_group_size=2)
    existing = ExistingEmbeddings(path=str(folder), **settings)
    return read_part(existing, list_parts(existing)[0])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (pa.array(["007", "3.10", "True"]), ["007", "3.10", "True"]),
        (pa.array([1, 2, 10**18]), ["1", "2", "1000000000000000000"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"a", "é".encode(), b"c"]), ["a", "é", "c"]),
        (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
    ],
)
def test_keys_and_captions_as_written(tmp_path, keys, expected):
    captions = pa.array([" padded ", None, "  "])
    rows = read(tmp_path, pa.table({"key": keys, "other": [[1], [2], [3]], "caption": captions}))
    assert rows.keys == expected
    assert rows.captions == [" padded ", None, None]


def test_a_column_of_keys_may_be_that_of_the_captions(tmp_path):
    rows = read(tmp_path, pa.table({"name": ["a", "b"]}), key_column="name", caption_column="name")
    assert (rows.keys, rows.captions) == (["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"key": ["a"], "caption": [["one", "two"]]},
            r"column 'caption' holds list<.*>, where each caption is .* texts",
        ),
        ({"key": ["a"], "caption": [{"text": "one"}]}, "column 'caption' holds struct<"),
        ({"key": ["a"], "caption": [5]}, "column 'caption' holds int64"),
        ({"key": [1.5]}, "column 'key' holds double, where each key is one of texts or whole numbers"),
        ({"key": [["a"]]}, "column 'key' holds list<"),
        ({"key": ["a", "b", None]}, "row 2 of .* has no 'key'"),
        ({"key": [b"\xff"]}, "cannot be read .*UTF"),
        ({"url": ["a"]}, "has no column key or image_path: allowed are its columns url"),
    ],
)
def test_a_column_of_another_shape_is_refused_by_its_name(tmp_path, columns, message):
    with pytest.raises(InputFault, match=message):
        read(tmp_path, pa.table(columns))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 60 + b"\x40\0\0\0PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, content):
    with pytest.raises(InputFault, match=r"metadata_0.parquet cannot be read"):
        read_broken(tmp_path, content)


def read_broken(folder, content):
    read(folder, pa.table({"key": ["a"]}))
    (folder / "metadata" / "metadata_0.parquet").write_bytes(content)
    existing = ExistingEmbeddings(path=str(folder))
    return read_part(existing, list_parts(existing)[0])


def write_names(folder, images, metadata=None, texts=()):
    existing = ExistingEmbeddings(path=str(folder))
    for kind, names in (("img_emb", images), ("text_emb", texts)):
        (folder / kind).mkdir()
        for name in names:
            np.save(folder / kind / f"{name}.npy", np.ones((2, 4), dtype=np.float32))
    (folder / "metadata").mkdir()
    for name in metadata or [image.replace("img_emb", "metadata") for image in images]:
        pq.write_table(pa.table({"key": [f"{name}/0", f"{name}/1"]}), folder / "metadata" / f"{name}.parquet")
    return existing


def stems(existing):
    parts = list_parts(existing)
    return [tuple(PurePosixPath(file).stem for file in (part.image, part.metadata)) for part in parts]


@pytest.mark.parametrize(
    "images",
    [
        ["img_emb_0000", "img_emb_0001", "img_emb_0002"],
        ["img_emb_a_0000", "img_emb_a_0001", "img_emb_b_0000"],  # two outputs, one beside the other
        ["batch_0_fp16", "batch_1_fp16", "batch_2_fp16"],
        ["img_emb_0_fp16", "img_emb_1_fp16"],
        ["0000", "0001"],
        ["img_emb_0", "part_0"],
    ],
)
@pytest.mark.parametrize("has_texts", [False, True])
def test_each_file_is_of_one_part_however_names_end(tmp_path, images, has_texts):
    texts = [image.replace("img_emb", "text_emb") for image in images] if has_texts else []
    existing = write_names(tmp_path, images, texts=texts)
    for kind in ("img_emb", "metadata"):  # as a Mac leaves them on a disk of another system
        (tmp_path / kind / f"._{kind}_0000{'.npy' if kind == 'img_emb' else '.parquet'}").write_bytes(b"Mac OS X")
    assert stems(existing) == [(image, image.replace("img_emb", "metadata")) for image in images]
    found = [None if part.text is None else PurePosixPath(part.text).stem for part in list_parts(existing)]
    assert found == (texts or [None] * len(images))


def test_names_with_nothing_but_numbers_in_common_are_joined_by_these(tmp_path):
    existing = write_names(tmp_path, ["emb_0", "emb_1"], ["rows_0", "rows_1"])
    assert stems(existing) == [("emb_0", "rows_0"), ("emb_1", "rows_1")]


@pytest.mark.parametrize(
    ("images", "metadata"),
    [
        (["a_0000", "b_0000"], ["x_0000", "y_0000"]),
        (["a_0000", "b_0000", "b_0001"], ["rows_0000", "rows_0001"]),
        (["a_0000", "a_0001"], ["x_0000", "y_0000", "x_0001"]),
        (["img_emb_0", "0"], ["metadata_0", "0"]),
    ],
)
def test_files_that_end_alike_and_join_no_others_are_refused_by_name(tmp_path, images, metadata):
    with pytest.raises(InputFault, match=r"found \w+/\w+\.\w+ and \w+/\w+\.\w+, whose names both end in '0+'"):
        list_parts(write_names(tmp_path, images, metadata))


def test_only_where_names_end_alike_is_the_result_another_one(tmp_path):
    existing = write_names(tmp_path, ["img_emb_0", "img_emb_1"])
    (tmp_path / "img_emb" / "._x_0.npy").write_bytes(b"Mac OS X")
    assert "parts" not in existing.identity()
    np.save(tmp_path / "img_emb" / "img_emb_a_1.npy", np.ones((2, 4), dtype=np.float32))
    assert existing.identity()["parts"] == "by whole names"
