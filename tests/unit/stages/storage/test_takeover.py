"""What is taken over from an artifact that another driver changes, or deletes, meanwhile."""

from pathlib import Path

import pytest

from stages.contract.errors import ArtifactError, DamagedFile
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Artifact, Output
from stages.storage.takeover import take_unit
from stages.streaming.reuse import made_units


def make_unit(output: Output) -> None:
    with output.collecting():
        output.write_bytes("checkpoints/7/weights", b"w" * 99)
        output.finish_unit("checkpoint_7", {"step": 7})


def test_a_file_that_is_deleted_once_it_was_compared_is_not_there(tmp_path: Path) -> None:
    class Changing(Artifact):
        def local(self, name: str, *, record: str | None = None, may_sample: bool = True) -> Path:
            found = super().local(name, record=record, may_sample=may_sample)
            Output(self.uri, self.stage, self.fingerprint).remove("checkpoints/7")
            return found

    make_unit(Output(str(tmp_path / "earlier"), "train_prior", "f0"))
    source, output = Changing(str(tmp_path / "earlier"), "train_prior", "f0"), Output(str(tmp_path / "a"), "b", "c")
    with pytest.raises(DamagedFile, match=r"checkpoints/7/weights: found no file"):
        take_unit(source, "checkpoint_7", output, "checkpoint_7")
    assert list(tmp_path.glob("a/**/*weights*")) == []


@pytest.mark.parametrize("uri", ["local", "memory://test-takeover/artifacts/download_shards/f0"])
def test_nothing_is_taken_from_an_artifact_whose_units_vanish_as_they_are_listed(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Vanishing(Artifact):
        def unit_names(self) -> list[str]:
            found = super().unit_names()
            Output(self.uri, self.stage, self.fingerprint).remove("units")
            return found

    address = str(tmp_path) if uri == "local" else uri
    make_unit(Output(address, "download_shards", "f0"))
    earlier = Vanishing(address, "download_shards", "f0")
    assert made_units(ShardRecord, [earlier]) == {}
    assert "nothing is taken from it" in caplog.text
    with pytest.raises(ArtifactError, match="has no file 'units/"):
        Artifact(address, "download_shards", "f0").read_units(["checkpoint_7"])
