"""Files of artifacts that are not what was written: named, never used, and their units made again."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.contract.errors import DamagedFile
from stages.contract.runner import run_stage
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run as embed
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.shards import read_table, shard_tar
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, make_context, save_image, save_tiny_clip

SHARDS = 3


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an artifact of three shards, which nobody has read yet."""
    monkeypatch.setenv("CORGI_CACHE", str(tmp_path / "cache"))
    for index in range(2 * SHARDS):
        save_image(tmp_path / "images" / f"{index}.png", color=(40 * index, 10, 10))
    download(tmp_path)
    return tmp_path / "shards"


def download(base: Path) -> None:
    source = {"kind": "folder", "path": base / "images"}
    config = DownloadShardsConfig.model_validate({"source": source, "rows_per_shard": 2, "image_size": 24})
    output = Output(str(base / "shards"), "download_shards", "f0")
    run_stage(run, config, inputs={}, output=output, context=make_context())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    """Swap a shard's file with that of another shard, of equal size."""
    other = path.with_name(path.name.replace("00001", "00002"))
    first, second = path.read_bytes(), other.read_bytes()
    size = max(len(first), len(second))
    path.write_bytes(second.ljust(size, b"\0")[: len(first)])
    other.write_bytes(first)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one-bit": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
    "missing": lambda path: path.unlink(),
    "of-another-shard": swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_damaged_shard_is_named_by_its_first_reader(made: Path, kind: str, damage: str) -> None:
    DAMAGE[damage](made / f"shards/00001.{kind}")
    shards = Artifact(str(made), "download_shards", "f0")
    with pytest.raises(
        DamagedFile, match=rf"^download_shards: .*shards/00001\.{kind}: found .*: expected what"
    ) as caught:
        shard_tar(shards, "00001") if kind == "tar" else read_table(shards, "00001")
    assert "set unit 00001 aside by `corgi verify" in str(caught.value)
    assert (caught.value.stage, caught.value.unit) == ("download_shards", "00001")
    assert shard_tar(shards, "00000").is_file()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_unit_that_was_set_aside_is_made_again_byte_for_byte(made: Path, damage: str) -> None:
    whole = folder_digests(made)
    DAMAGE[damage](made / "shards/00001.tar")
    output = Output(str(made), "download_shards", "f0")
    others = ("00001", "00002") if damage == "of-another-shard" else ("00001",)
    for unit in others:
        output.set_aside([f"units/{unit}.json", f"shards/{unit}.tar"])
    assert not output.is_complete
    kept = made / "damaged/shards/00001.tar"
    assert kept.exists() == (damage != "missing")
    download(made.parent)
    found = {name: digest for name, digest in folder_digests(made).items() if not name.startswith("damaged/")}
    assert found == whole


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "missing"])
def test_a_resumed_stage_sees_by_sizes_alone_what_is_damaged(
    made: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = folder_digests(made)
    (made / "_COMPLETE").unlink()
    DAMAGE[damage](made / "shards/00002.parquet")
    download(made.parent)
    assert "shards/00002.parquet: found" in caplog.text
    found = {name: digest for name, digest in folder_digests(made).items() if not name.startswith("damaged/")}
    assert found == whole


@pytest.mark.parametrize("name", ["units/00001.json", "manifest.json", "plan.json"])
def test_a_number_in_a_record_that_changed_is_found(made: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    text = (made / name).read_text()
    changed = text.replace(": 2", ": 3") if name.startswith("units") else text.replace(": 3", ": 2")
    assert changed != text
    (made / name).write_text(changed)
    shards = Artifact(str(made), "download_shards", "f0")
    with pytest.raises(DamagedFile, match=rf"{name}: found damaged content \(.*its own checksum is another"):
        shards.read_json(name)
    (made / "_COMPLETE").unlink()
    with caplog.at_level(logging.WARNING):
        assert shards.planned_units() == (None if name == "plan.json" else SHARDS)
        assert len(Output(shards.uri, shards.stage, "f0").done_units()) == (SHARDS - name.startswith("units"))


def test_what_is_read_is_compared_once_until_it_changes(made: Path) -> None:
    shards = Artifact(str(made), "download_shards", "f0")
    path = shard_tar(shards, "00001")
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk rots: without a trace
    assert shard_tar(Artifact(str(made), "download_shards", "f0"), "00001") == path  # compared already
    os.utime(path)
    with pytest.raises(DamagedFile):
        shard_tar(Artifact(str(made), "download_shards", "f0"), "00001")


def test_artifacts_of_earlier_versions_are_read_as_before(made: Path) -> None:
    for record in [*made.glob("units/*.json"), made / "manifest.json"]:
        content = json.loads(record.read_text())
        del content["seal"]
        record.write_text(json.dumps(content))
    flip(made / "shards/00001.parquet")
    shards = Artifact(str(made), "download_shards", "f0")
    assert shard_tar(shards, "00000").is_file()
    assert shard_tar(shards, "00001").is_file()
    assert len(shards.done_units()) == SHARDS


def test_a_stage_that_reads_a_damaged_shard_fails_with_its_name_and_keeps_what_it_made(made: Path) -> None:
    flip(made / "shards/00002.tar")
    clip = save_tiny_clip(made.parent / "clip")
    config = EmbedClipConfig(clip=ClipConfig(models=(FolderClip(kind="folder", path=clip),)))
    output = Output(str(made.parent / "embeddings"), "embed_clip", "e0")
    inputs = {"download_shards": Artifact(str(made), "download_shards", "f0")}
    with pytest.raises(DamagedFile, match=r"^download_shards: .*00002\.tar: found other bytes: "):
        embed(config, inputs, output, make_context())
    assert sorted(output.done_units()) == ["00000", "00001"]
