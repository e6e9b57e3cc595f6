"""A run in an environment that other programs have left behind: it works, on loopback alone, and leaves nothing.

One start of Ray for all of it: what other launchers say of ranks, a store whose name holds signs of addresses, a
temporary folder of 100 characters, few open files, no home folder, an old locale, warnings as errors, no GPU.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.embedded import MOST_FOLDER, _session_folder
from cluster.training import forget_launchers
from pipeline.errors import UsageError
from pipeline.store import Store
from stages.contract.errors import InputFault
from stages.storage.private_folders import user_folder
from tests.live import command_of, descendants

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "2", "SLURM_NTASKS": "4",
    "PMI_RANK": "1", "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
SHORT = [
    "download_shards.source.num_images=40", "train_decoder=null", "generate=null", "evaluate=null",
    "cluster.num_cpus=1",
]  # fmt: skip
STORE = "a b?x%20y#z [1] ünï"


FEW_FILES = ["bash", "-c", 'ulimit "$1"n 256; shift; exec "$@"', "bash"]  # then -S or -H: the soft limit, or both


def listening(process: int) -> Iterator[str]:
    """Yield the addresses on which a process and those that it started listen."""
    for one in [psutil.Process(process), *descendants(process)]:
        try:
            yield from (found.laddr.ip for found in one.net_connections() if found.status == psutil.CONN_LISTEN)
        except psutil.Error:  # it has ended
            continue


def programs(process: int) -> Iterator[str]:
    """Yield the names of the files that the processes which a process started were given."""
    for one in descendants(process):
        yield from (Path(word).name for word in command_of(one) if word.startswith("/"))


def open_folders(folder: Path) -> list[str]:
    """Return what other users could enter below a folder that they can enter."""
    found = []
    for one in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has gone
            if one.is_dir() and one.stat().st_mode & 0o077:
                found.append(str(one))
    return found


@pytest.mark.timeout(900)
def test_a_run_works_among_the_leftovers_of_others(tmp_path: Path) -> None:
    temporary = Path(str(tmp_path) + "/" + "t" * max(1, 100 - len(str(tmp_path)) - 1))
    temporary.mkdir()
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "LANG": "C",
                   "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
                   "PYTHONWARNINGS": "error"} | LAUNCHERS  # fmt: skip
    words = [sys.executable, "-m", "pipeline", "run", str(ROOT / "configs/smoke.yaml"), f"store={tmp_path / STORE}"]
    heard: set[str] = set()
    ran: set[str] = set()
    with (tmp_path / "log").open("wb") as log, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*FEW_FILES, "-S", *words, *SHORT, "--json"], stdout=out, stderr=log, env=environment,
            cwd=tmp_path,
        )  # fmt: skip
        seen: list[str] = []
        while process.poll() is None:
            heard.update(listening(process.pid))
            ran.update(programs(process.pid))
            seen += open_folders(temporary)
            time.sleep(2.0)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert {stage["state"] for stage in json.loads((tmp_path / "out").read_text())["stages"]} == {"done"}
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert heard
    assert "raylet" in ran
    assert not {"dashboard.py", "monitor.py", "log_monitor.py"} & ran  # nobody asks them, and they take seconds
    assert not [one for one in seen if "corgi-ray" in one]
    left = [one for one in temporary.glob("corgi-*") if not one.name.startswith("corgi-cache-")]  # which is to stay
    assert left == []
    assert (tmp_path / STORE / "mlflow.db").stat().st_size > 0
    assert {one.name for one in tmp_path.iterdir()} == {STORE, temporary.name, "log", "out"}
    assert "tracking: warning" not in (tmp_path / "log").read_text()


def test_too_few_open_files_are_one_sentence() -> None:
    words = [sys.executable, "-c", "from cluster.session import session\nwith session(None): pass"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*FEW_FILES, "-", *words], capture_output=True, text=True, check=False, env=environment)
    found = done.stderr.strip().splitlines()[-1]
    assert found.startswith("cluster.errors.NotStarted: cluster: a process may open 256 files here: Ray needs 512")
    assert "ulimit -n" in found


def test_a_temporary_folder_that_is_too_long_for_sockets_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / ("t" * 120)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    assert len(str(folder)) > MOST_FOLDER
    with _session_folder() as found:  # /tmp is short enough
        assert len(str(found)) <= MOST_FOLDER
        assert found.parent.stat().st_mode & 0o077 == 0
    assert not found.parent.exists()


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
def test_a_home_folder_that_cannot_be_used_is_one_sentence(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(InputFault, match=r"HOME: .*(cannot be used|is no folder).*name another with HOME"):
        user_folder()
    with pytest.raises(UsageError, match="store: HOME: "):
        _ = Store("memory://corgi").local_base


def test_the_home_folder_is_closed_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".corgi").mkdir(mode=0o755)
    assert user_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("uri", ["~nobody-here/store", "a\0b"])
def test_a_store_that_is_no_path_is_one_sentence(uri: str) -> None:
    with pytest.raises(UsageError, match=r"store: .* is no path here"):
        Store(uri)


def test_other_launchers_are_forgotten_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("RANKING", "x")
    forget_launchers()
    assert not set(LAUNCHERS) & set(os.environ)
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert os.environ["RANKING"] == "x"
