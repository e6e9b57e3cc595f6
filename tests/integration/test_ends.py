"""A run that is ended from outside keeps what it has, says so, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stages.formats.checkpoints import checkpoint_steps
from stages.storage.artifact import Output
from tests.live import name_of

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name: ends
split: {validation: 0.2}
download_shards: {source: {kind: scenes, num_images: 40, resolution: 16}, rows_per_shard: 20, encode_format: png}
train_clip:
  resources: {cpus_per_worker: 1}
  architecture:
    embed_dim: 16
    vision_cfg: {image_size: 16, layers: 1, width: 32, head_width: 16, patch_size: 8}
    text_cfg: {context_length: 24, width: 32, heads: 2, layers: 1}
  vocab_size: 320
  training: {num_steps: 1000000, batch_size: 16, precision: float32, checkpoint_interval: 1000, log_interval: 50}
tracking: {register_model: false}
"""
START_RAY = """
import sys, time
from cluster.errors import HeadLost
from cluster.session import session
from pipeline.ends import heeding_signals
from pipeline.errors import Interrupted
try:
    with heeding_signals():
        print("starting", flush=True)
        with session(None, num_cpus=1):
            print("started", flush=True)
            time.sleep(60)
except Interrupted as error:
    sys.exit(error.exit_code)
except HeadLost as error:
    sys.exit(str(error))
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files alone, whose name is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ends-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def started(words: list[str], temporary: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            for one in tree(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def tree(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def children(process: "subprocess.Popen[str]") -> set[str]:
    """Return the names of what a process has started."""
    return {name_of(one) for one in tree(process)[1:]}


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 500
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.05)


def signal_group(process: "subprocess.Popen[str]", number: int) -> tuple[int, str]:
    """Signal all processes of the group, as Slurm, systemd and `timeout` do; nothing of them may be left."""
    processes = tree(process)
    os.killpg(process.pid, number)
    text = process.communicate(timeout=300)[0]  # none of them holds the pipe any more
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    return process.returncode, text


@pytest.mark.timeout(900)
def test_sigterm_to_all_processes_ends_with_a_checkpoint_of_the_step_in_hand(tmp_path: Path, temporary: Path) -> None:
    config = tmp_path / "ends.yaml"
    config.write_text(EXPERIMENT)
    store = tmp_path / "store"
    with started(["-m", "pipeline", "run", str(config), f"store={store}"], temporary) as process:
        wait_until(lambda: any(store.glob("artifacts/train_clip/*/units/checkpoint_*.json")), process)
        (running,) = [json.loads(file.read_text()) for file in store.glob("runs/*/run.json")]
        code, text = signal_group(process, signal.SIGTERM)
    assert running["stages"][-1]["state"] == "running"
    assert code == 143, text
    assert "train_clip may write a checkpoint of the step in hand" in text
    assert "corgi: ended by SIGTERM; what was finished is kept: run the same command again to go on" in text
    assert "Traceback" not in text
    (folder,) = store.glob("artifacts/train_clip/*")
    steps = checkpoint_steps(Output(str(folder), "train_clip", folder.name))
    assert steps[-1] % 1000, (steps, text)  # which was not due
    (record,) = [json.loads(file.read_text()) for file in store.glob("runs/*/run.json")]
    assert record["status"] == "interrupted"
    states = {stage["name"]: stage["state"] for stage in record["stages"]}
    assert states == {"download_shards": "done", "train_clip": "interrupted"}
    left = [path.name for path in temporary.iterdir() if "corgi" in path.name]
    assert [name for name in left if not name.startswith("corgi-cache-")] == []  # which is for the next run


@pytest.mark.timeout(700)
@pytest.mark.parametrize(("sign", "after"), [("SIGTERM", "starting"), ("SIGHUP", "started")])
def test_a_signal_while_ray_starts_or_runs_leaves_nothing_of_it(temporary: Path, sign: str, after: str) -> None:
    with started(["-c", START_RAY], temporary) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != after:
            assert process.poll() is None
        if after == "starting":
            wait_until(lambda: "gcs_server" in children(process), process)  # in the middle of it
        code, text = signal_group(process, signal.Signals[sign])
    assert code == 128 + signal.Signals[sign], text
    assert list(temporary.glob("corgi-ray-*")) == []


@pytest.mark.timeout(700)
@pytest.mark.parametrize("after", ["raylet", "started"])
def test_a_killed_driver_leaves_nothing_of_ray(temporary: Path, after: str) -> None:
    """Also where Ray has just begun to start, so that its agents do not call themselves Ray's yet."""
    with started(["-c", START_RAY], temporary) as process:
        assert process.stdout is not None
        if after == "raylet":
            wait_until(lambda: after in children(process), process)
        else:
            while process.stdout.readline().strip() != after:
                assert process.poll() is None
        (folder,) = temporary.glob("corgi-ray-*")
        processes = tree(process)
        process.kill()
        _, alive = psutil.wait_procs(processes, timeout=45)  # Ray's agents alone would take 60 s and more
    assert not alive
    assert [one.info["name"] for one in psutil.process_iter(["name", "cmdline"])
            if any(str(folder) in word for word in one.info["cmdline"] or ())] == []  # fmt: skip
    assert list(temporary.glob("corgi-ray-*")) == []


@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_ray_that_has_lost_its_head_is_named_and_waited_for_by_nobody(temporary: Path, name: str) -> None:
    in_background = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as a shell starts it
    with started(["-c", in_background + START_RAY], temporary) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "started":
            assert process.poll() is None
        processes = tree(process)
        next(one for one in processes if name_of(one) == name).kill()
        text = process.communicate(timeout=300)[0]
        _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert process.returncode == 1
    assert f"cluster: Ray's {name} on this machine was lost" in text
    assert "Traceback" not in text
    assert list(temporary.glob("corgi-ray-*")) == []
