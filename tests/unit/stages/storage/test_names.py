"""Names of files that records from elsewhere hold: none of them leads out of the artifact."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.contract.errors import ArtifactError, DamagedFile
from stages.storage.artifact import Artifact, Output
from stages.storage.checksums import FileSum, sealed, to_json, unsealed
from stages.storage.takeover import take_unit
from stages.storage.verification import set_damage_aside, verify

NO_NAMES = (
    "",
    ".",
    "..",
    "../a",
    "a/../b",
    "/etc/a",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "a\0b",
    "n" * 256,
    "n/" * 512 + "n",
    "\ud800",
)
NAMES = ("a", "a b", "a..b", ".a", "shards/00000.tar", "n" * 255, "ä\\b")


def record_of(name: str) -> bytes:
    return to_json(sealed({"images": 1}, {name: FileSum.of_bytes(b"other")}))


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_record_that_names_something_else_than_a_file_below_its_artifact_is_damaged(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a file in the artifact"):
        unsealed(sealed({"images": 1}, {name: FileSum.of_bytes(b"")}))


@pytest.mark.parametrize("name", NAMES)
def test_all_names_of_files_are_read(name: str) -> None:
    files = {name: FileSum.of_bytes(b"")}
    assert unsealed(sealed({}, files)) == ({}, files)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim" / "file"
    file.parent.mkdir()
    file.write_bytes(b"mine")
    return file


@pytest.fixture
def changed(tmp_path: Path, victim: Path) -> Output:
    output = Output(str(tmp_path / "artifact"), "download_shards", "f0")
    output.write_bytes("units/00000.json", record_of(f"../{victim.relative_to(tmp_path)}"))
    return output


def test_nothing_outside_is_set_aside(changed: Output, victim: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        damaged = verify(Artifact(changed.uri, changed.stage, changed.fingerprint), pool).damaged
    assert [error.unit for error in damaged] == ["00000"]
    assert set_damage_aside(changed, damaged, is_trained=False) == ["00000"]
    assert victim.read_bytes() == b"mine"
    assert changed.exists("damaged/units/00000.json")


def test_a_stage_that_goes_on_sets_nothing_outside_aside(changed: Output, victim: Path) -> None:
    assert changed.done_units() == {}
    assert victim.read_bytes() == b"mine"


def test_nothing_outside_is_taken_over(changed: Output, victim: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"is no name of a file in the artifact"):
        take_unit(changed, "00000", Output(str(tmp_path / "other"), "download_shards", "f1"), "00000")
    assert list(tmp_path.glob("other/**/*")) == []


@pytest.mark.parametrize("address", ["here", "memory://test-names/artifact"])
@pytest.mark.parametrize("name", ["../victim/file", "models/../../victim/file", ".."])
def test_no_name_of_any_document_is_opened_or_written_outside(
    tmp_path: Path, victim: Path, address: str, name: str
) -> None:
    uri = str(tmp_path / "artifact") if address == "here" else address
    output = Output(uri, "train_prior", "f0")
    for use in (output.local, output.open, output.read_json, output.remove, output.exists, output.checksum):
        with pytest.raises(ArtifactError, match=r"found '.*' as the name of a file: expected one in this folder"):
            use(name)
    with pytest.raises(ArtifactError, match="as the name of a file"):
        output.write_bytes(name, b"theirs")
    assert victim.read_bytes() == b"mine"
