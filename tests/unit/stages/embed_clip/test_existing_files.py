"""Metadata of embeddings that others made: texts as written, or a sentence that names the column."""

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
