"""Shards are read as they were written, and written anew with the same bytes."""

import contextlib
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.contract.errors import ArtifactError
from stages.formats.shards import (
    ShardEntry,
    ShardRecord,
    index_images,
    read_captions,
    read_entries,
    read_member,
    read_shard,
    read_table,
    read_table_captions,
    shard_tar,
    write_shard,
)
from stages.storage.artifact import Output
from tests.factories import folder_digests

SCHEMA = pa.schema(
    [("key", pa.string()), ("status", pa.string()), ("error_message", pa.string()), ("caption", pa.string()),
     ("captions", pa.list_(pa.field("element", pa.string())))]
)  # fmt: skip


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


def entry(key: str, image: bytes | None, captions: list[str]) -> ShardEntry:
    status, message = ("success", None) if image else ("failed_to_download", "timed out")
    row = {"key": key, "status": status, "error_message": message}
    return ShardEntry(key, image, {**row, "caption": next(iter(captions), None), "captions": captions})


ENTRIES = [entry("000", png("red"), ["a", "b"]), entry("001", None, ["c"]), entry("002", png("blue"), [])]


def written(folder: Path) -> Output:
    output = Output(str(folder), "download_shards", "d")
    write_shard(output, "00000", ENTRIES, schema=SCHEMA, image_suffix="png")
    return output


def test_samples_come_back_with_all_their_captions(tmp_path: Path) -> None:
    output = written(tmp_path)
    tar = shard_tar(output, "00000")
    assert [(sample.key, sample.captions) for sample in read_shard(tar)] == [("000", ("a", "b")), ("002", ())]
    assert [sample.captions for sample in read_shard(tar, with_captions=False)] == [(), ()]
    assert [read_member(tar, *where) for where in index_images(tar).values()] == [png("red"), png("blue")]


def test_the_table_has_every_entry_and_the_columns_that_are_there(tmp_path: Path) -> None:
    table = read_table(written(tmp_path), "00000", ["key", "source_key"])
    assert table.to_pydict() == {"key": ["000", "001", "002"]}


def test_captions_are_in_the_table_as_in_the_tar(tmp_path: Path) -> None:
    entries = [*ENTRIES, entry("003", png("green"), [""]), entry("004", png("green"), ["größer\n \N{SNOWMAN}"])]
    output = Output(str(tmp_path), "download_shards", "d")
    write_shard(output, "00000", entries, schema=SCHEMA, image_suffix="png")
    found = read_table_captions(output, "00000")
    assert found == read_captions(shard_tar(output, "00000")) == {"000": "a", "004": "größer\n \N{SNOWMAN}"}

    uncaptioned = [
        ShardEntry("000", png("red"), {"key": "000", "status": "success", "error_message": None}),
    ]
    write_shard(output, "00001", uncaptioned, schema=pa.schema(list(SCHEMA)[:3]), image_suffix="png")
    assert read_table_captions(output, "00001") == {}, "a source that has no captions"


def test_a_shard_written_anew_has_the_same_bytes(tmp_path: Path) -> None:
    output = written(tmp_path / "one")
    entries, schema = read_entries(output, "00000")
    again = Output(str(tmp_path / "two"), "download_shards", "d")
    write_shard(again, "00000", entries, schema=schema, image_suffix="png")
    assert folder_digests(tmp_path / "one") == folder_digests(tmp_path / "two")
    assert output.read_json("shards/00000_stats.json") == {
        "count": 3, "successes": 2, "failed_to_download": 1, "failed_to_resize": 0,
        "status_dict": {"success": 2, "timed out": 1},
    }  # fmt: skip


def test_a_record_that_lacks_a_field_is_refused(tmp_path: Path) -> None:
    output = written(tmp_path)
    output.finish_unit("00000", {"rows": 3, "images": 2, "failures": {"timeout": 1}})
    with pytest.raises(ArtifactError, match=r"download_shards: .*units/00000\.json: captioned: Field required"):
        ShardRecord.done(output)


bounded = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@bounded
@given(st.permutations(["a.txt", "a.png", "a.json", "b.png", "c.txt", "b.txt", "d.png", "a.png"]))
def test_the_order_of_members_is_of_no_consequence(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "x.tar"
    contents = {"a.json": b'{"captions": ["a", "b"]}', "a.txt": b"a", "b.txt": b"of b", "c.txt": b"of c"}
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(contents.get(name, b"image"))
            tar.addfile(info, io.BytesIO(contents.get(name, b"image")))
    found = {sample.key: (sample.image, sample.captions) for sample in read_shard(path)}
    assert found == {
        "a": (b"image", ("a", "b")), "b": (b"image", ("of b",)), "c": (None, ("of c",)), "d": (b"image", ()),
    }  # fmt: skip
    assert read_captions(path) == {"a": "a", "b": "of b"}
    assert set(index_images(path)) == {"a", "b", "d"}


@bounded
@given(st.data())
def test_a_damaged_shard_is_an_error_of_the_artifact_or_read(tmp_path: Path, data: st.DataObject) -> None:
    path = shard_tar(written(tmp_path / "made"), "00000")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 5000))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    for read in (read_shard, index_images, read_captions):
        with contextlib.suppress(ArtifactError):
            list(read(damaged))
