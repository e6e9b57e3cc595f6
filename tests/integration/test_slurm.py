"""The Slurm script on two nodes with addresses of their own, of which one is lost in training.

Slurm's commands are stand-ins that start what they are given on the one node or the other; all else is real.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.live import name_of
from tests.network_nodes import ADDRESSES, Networks, can_be_made

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 900.0  # seconds, until the training and after it: on a busy machine 500 have not been enough
#: One program a node, as --ntasks-per-node=1 has it; the node is named, or is the one that is not named.
SRUN = """#!/bin/bash
node=0
while [[ "$1" == --* ]]; do
    if [[ "$1" == --exclude=* ]]; then node=1; fi
    shift
done
exec ip netns exec "$NETWORKS$node" "$@"
"""
SCONTROL = f"""#!/bin/bash
[ "$1 $2 $3" = "show hostnames nodes[0-1]" ] && printf '%s\\n' {" ".join(ADDRESSES)}
"""
SPREAD = ("num_workers=2", "cpus_per_worker=2", "wait_for_nodes=5")  # a process on each node
BEFORE = ("download_shards", "embed_clip", "fit_gaussians")  # one process each: the training is what is looked at
TRAINING = ("num_steps=240", "checkpoint_interval=10")
OVERRIDES = (
    "train_decoder=null", "generate=null", "evaluate=null",
    *(f"{stage}.resources.num_workers=1" for stage in BEFORE),
    *(f"train_prior.resources.{word}" for word in SPREAD), *(f"train_prior.training.{word}" for word in TRAINING),
)  # fmt: skip


@pytest.fixture
def networks() -> Iterator[Networks]:
    if not can_be_made():
        pytest.skip("networks of their own can be made by root alone, with iproute2")
    made = Networks()
    try:
        made.make()
        yield made
    finally:
        for node in (0, 1):
            for pid in made.pids(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        made.remove()


@pytest.mark.timeout(2 * LONGEST + 120)
def test_the_slurm_script_trains_over_two_nodes_and_goes_on_without_one(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "300",
        "NETWORKS": networks.name, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "nodes[0-1]", "SLURM_CPUS_ON_NODE": "2",
    }  # fmt: skip
    script = ["bash", str(ROOT / "cluster/manifests/slurm.sh"), str(ROOT / "configs/smoke.yaml")]
    store = tmp_path / "store"
    words, said = [*networks.within(0), *script, f"store={store}", *OVERRIDES], tmp_path / "log"
    with said.open("w") as log, subprocess.Popen(words, env=environment, stdout=log, stderr=log) as job:
        try:
            _wait_for(lambda: list(store.glob("artifacts/train_prior/*/units/checkpoint_*.json")), job, said)
            training = []
            for pid in networks.pids(1):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one = psutil.Process(pid)
                    training += ["RayTrainWorker" in name_of(one)]
                    one.kill()
            assert job.wait(LONGEST) == 0, said.read_text()
        finally:
            job.kill()  # what it started is ended with the networks
    assert any(training), "no process of the group was on the node that was lost"
    (record,) = [json.loads(path.read_text()) for path in store.glob("runs/*/run.json")]
    assert record["status"] == "done"
    assert "going on with 1" in said.read_text()
    (log_file,) = store.glob("artifacts/train_prior/*/training_log.json")
    steps = [step for step, _, values in json.loads(log_file.read_text())["rows"] if "loss" in values]
    assert steps == list(range(2, 241, 2)), "each logged step is there once"
    until = time.monotonic() + 60
    while networks.pids(0) and time.monotonic() < until:
        time.sleep(0.1)
    assert networks.pids(0) == [], "something is left behind on the head"


def _wait_for(found: Callable[[], object], job: "subprocess.Popen[bytes]", said: Path) -> None:
    until = time.monotonic() + LONGEST
    while not found():
        assert job.poll() is None, said.read_text()
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.1)
