"""Temporary folders: gone at their end, and after a kill with the next process that looks."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.owned_folders import SCRATCH, owned_folder, scratch_folder, sweep_scratch

HOLD = """
import time
from cluster.owned_folders import scratch_folder
with scratch_folder("writing") as folder:
    (folder / "file").write_bytes(b"content")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def start(temporary: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(temporary), "PATH": ""}
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_this_user_s_alone_and_goes_at_the_end(temporary: Path) -> None:
    with scratch_folder("writing") as folder:
        assert folder.is_relative_to(temporary)
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(temporary: Path) -> None:
    killed, left = start(temporary)
    living, held = start(temporary)
    try:
        killed.kill()
        killed.communicate()
        assert (left / "file").exists()
        sweep_scratch()
        assert not left.parent.exists()
        assert (held / "file").read_bytes() == b"content"
    finally:
        living.kill()
        living.communicate()


def test_the_next_process_removes_it_by_itself(temporary: Path) -> None:
    killed, left = start(temporary)
    killed.kill()
    killed.communicate()
    again, _ = start(temporary)
    again.kill()
    again.communicate()
    assert not left.parent.exists()


def test_what_is_not_of_this_kind_is_left(temporary: Path) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (precious / "owner").touch()
    (temporary / f"{SCRATCH}link").symlink_to(precious)
    (temporary / f"{SCRATCH}mine").mkdir()  # by someone else: no file says whose it is
    (temporary / f"{SCRATCH}file").touch()
    other = temporary / "corgi-scratch-00000000-abc"  # of another machine
    other.mkdir()
    (other / "owner").touch()
    sweep_scratch()
    assert len(list(temporary.iterdir())) == 5
    assert (precious / "owner").exists()


def test_a_folder_beside_the_temporary_ones_goes_with_an_error_too(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    found: list[Path] = []

    def fail() -> None:
        with owned_folder("corgi-npm-", packages) as folder:
            found.append(folder)
            raise RuntimeError("by the caller")

    with pytest.raises(RuntimeError, match="by the caller"):
        fail()
    assert found[0].parent == packages
    assert found[0].name.startswith("corgi-npm-")
    assert list(packages.iterdir()) == []
