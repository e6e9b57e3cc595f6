"""Files of artifacts that somebody else wrote: refused in a sentence, or left alone."""

from pathlib import Path

import pyarrow as pa
import pytest

from stages.contract.errors import ArtifactError
from stages.formats.checkpoints import checkpoint_steps
from stages.formats.embeddings.layout import parse_text_encoders, read_text_encoders
from stages.formats.per_shard import load_table, save_table, table_name, table_schema
from stages.formats.shards import read_table
from stages.storage.artifact import Output


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path), "embed_clip", "e")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table" * 10])
def test_a_table_that_is_none_is_refused(output: Output, content: bytes) -> None:
    output.write_bytes(table_name("metadata", "00000"), content)
    output.write_bytes("shards/00000.parquet", content)
    reads = (
        lambda: load_table(output, "metadata", "00000"),
        lambda: table_schema(output, "metadata", "00000"),
        lambda: read_table(output, "00000"),
    )
    for read in reads:
        with pytest.raises(ArtifactError, match=r"00000\.parquet: found no table .* expected a parquet file: delete"):
            read()


def test_a_whole_table_is_read(output: Output) -> None:
    save_table(output, "metadata", "00000", pa.table({"key": ["a"]}))
    assert load_table(output, "metadata", "00000")["key"].to_pylist() == ["a"]


def test_checkpoints_are_those_with_a_step(output: Output) -> None:
    for name in ("00000008", "00000004", "x", "", "-0000001", "4"):
        output.write_bytes(f"units/checkpoint_{name}.json", b"{}")
    assert checkpoint_steps(output) == [4, 8]


@pytest.mark.parametrize("content", [None, 5, ["t5"], "t5"])
def test_text_encoders_that_are_no_mapping_are_refused(output: Output, content: object) -> None:
    output.write_json("text_encoders.json", content)
    with pytest.raises(ArtifactError, match=r"text_encoders\.json: found .* expected a mapping of their names: delete"):
        read_text_encoders(output)
    assert parse_text_encoders({}, output, "prior") == {}
