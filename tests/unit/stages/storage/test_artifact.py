"""Records of finished units, on this machine's disk and on a remote store."""

from pathlib import Path

import pytest

from stages.contract.errors import ArtifactError, DamagedFile
from stages.storage.artifact import Artifact, Output


@pytest.mark.parametrize("uri", ["local", "memory://test-artifacts/artifacts/embed_clip/f0"])
def test_records_of_units_are_read_back_by_name(tmp_path: Path, uri: str) -> None:
    output = Output(str(tmp_path) if uri == "local" else uri, "embed_clip", "f0")
    assert output.done_units() == {}
    records = {f"{number:05d}": {"rows": number, "failures": {"http_404": 2}} for number in (3, 0, 11)}
    for name, record in records.items():
        output.finish_unit(name, record)
    found = Artifact(output.uri, "embed_clip", "f0").done_units()
    assert found == records
    assert list(found) == sorted(records)
    output.remove("units")


def test_one_record_alone_is_read_from_a_remote_store() -> None:
    output = Output("memory://test-artifacts/one", "train_prior", "f0")
    output.finish_unit("model", {"metrics": {}})
    assert output.done_units() == {"model": {"metrics": {}}}
    output.remove("units")


def test_a_unit_that_is_deleted_while_all_are_read_is_left_out(tmp_path: Path) -> None:
    class Deleting(Artifact):
        """Has a unit deleted right after it was listed, as a training deletes its oldest checkpoint."""

        def unit_names(self) -> list[str]:
            found = super().unit_names()
            (tmp_path / "units/00001.json").unlink(missing_ok=True)
            return found

    output = Output(str(tmp_path), "train_prior", "f0")
    for name in ("00001", "00002"):
        output.finish_unit(name, {"images": 3})
    assert Deleting(str(tmp_path), "train_prior", "f0").done_units() == {"00002": {"images": 3}}


def test_what_is_being_written_is_no_unit_yet(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "a"), "download_shards", "f0")
    output.finish_unit("00000", {"rows": 1})
    with output.writing("units/00001.json") as partial:
        partial.write_text("{}")
        assert output.glob("units/*.json") == ["units/00000.json"]
        assert list(output.done_units()) == ["00000"]
    assert output.glob("units/*.json") == ["units/00000.json", "units/00001.json"]


def test_a_unit_whose_record_is_damaged_is_made_again_but_its_readers_are_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Output(str(tmp_path), "embed_clip", "f0")
    for name in ("00000", "00001"):
        output.finish_unit(name, {"images": 3})
    (tmp_path / "units/00001.json").write_text('{"images"')
    with pytest.raises(ArtifactError, match=r"embed_clip: .*units/00001\.json: found damaged content"):
        Artifact(str(tmp_path), "embed_clip", "f0").done_units()
    assert output.done_units() == {"00000": {"images": 3}}
    assert "00001.json: found damaged content" in caplog.text
    assert not (tmp_path / "units/00001.json").exists()


def test_a_file_that_replaces_one_while_that_is_compared_is_compared_too(tmp_path: Path) -> None:
    class Slow(Artifact):
        """Has a file written again, with a fault of the disk, once the one before was compared."""

        def _compare(self, name: str, record: str | None, path: Path, *, may_sample: bool) -> bool:
            found = super()._compare(name, record, path, may_sample=may_sample)
            with Output(self.uri, "embed_clip", "f0").writing(name) as partial:
                partial.write_bytes(b"wrong")
            return found

    output = Output(str(tmp_path), "embed_clip", "f0")
    with output.collecting():
        output.write_bytes("rows", b"right")
        output.finish_unit("00000", {})
    record = "units/00000.json"
    Slow(output.uri, "embed_clip", "f0").local("rows", record=record)
    with pytest.raises(DamagedFile, match="other bytes"):
        Artifact(output.uri, "embed_clip", "f0").local("rows", record=record)


@pytest.mark.parametrize("content", [b"[]", b"null", b"5", b'"a"'])
def test_the_record_of_a_unit_is_a_mapping(tmp_path: Path, content: bytes) -> None:
    output = Output(str(tmp_path), "embed_clip", "e")
    output.write_bytes("units/00000.json", content)
    artifact = Artifact(output.uri, "embed_clip", "e")
    for read in (artifact.done_units, artifact.unit_sums, lambda: artifact.read_json("units/00000.json")):
        with pytest.raises(DamagedFile, match="the record of a unit is a mapping"):
            read()
    assert output.done_units() == {}, "it is set aside, and made again"


def test_a_folder_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "units/00000.json").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"has no file 'units/\*\.json'"):
        Artifact(str(tmp_path), "embed_clip", "e").done_units()
