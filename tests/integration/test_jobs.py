"""Jobs on a Ray of its own, started as an administrator starts one, with token authentication left on."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.factories import save_tiny_t5
from tests.live import content_of, files_below
from tests.ports import free_port
from tests.s3_server import serve_s3

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CANARY = "c4naryX7"

LONGEST = 560  # seconds of a job


@dataclass(frozen=True)
class Head:
    """A running head node, and the environment that a user with its token has."""

    address: str
    environment: dict[str, str]
    folder: Path
    process: "subprocess.Popen[bytes]"
    cluster: str
    """The address for programs of Ray, which is not that of the dashboard."""

    def end(self) -> None:
        """End Ray's processes (its own way down takes half a minute), and remove its folder."""
        for child in [self.process, *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head` with a token, ended by its own process id."""
    port, cluster = free_port(), f"127.0.0.1:{free_port()}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    folder = Path(f"/tmp/corgi-ray-{os.getpid()}")  # sockets below it must have short names
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={cluster.split(':')[1]}", f"--dashboard-port={port}",
        "--dashboard-host=127.0.0.1", f"--ray-client-server-port={free_port()}", "--min-worker-port=0",
        f"--dashboard-agent-listen-port={free_port()}", "--max-worker-port=0", "--num-cpus=2", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip
    with (
        (tmp_path_factory.mktemp("head") / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT) as process,
    ):
        found = Head(f"http://127.0.0.1:{port}", environment, folder, process, cluster)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api/version", process)
            yield found
        finally:
            found.end()


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head node ended at once"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, and asks for the token
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head node did not come up in 300 s")


def _run(command: list[str], environment: dict[str, str], cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it goes along with a job: the smoke experiment, and the models that it names by their folders."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs" / "assets" / "tiny_clip", folder / "assets" / "tiny_clip")
    save_tiny_t5(folder / "t5")
    for name in ("smoke.yaml", "quickstart.yaml"):
        shutil.copyfile(ROOT / "configs" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the smoke experiment's job."""
    return tmp_path_factory.mktemp("store")


EMBEDDED_THEN_CLUSTER = """
import os, sys
from cluster.session import session
with session(None, 1):  # with a token of its own
    pass
with session(sys.argv[1]) as machines:
    print(machines.num_cpus)
assert "RAY_AUTH_TOKEN" not in os.environ
with session(None, 1) as machines:
    print(machines.num_cpus)
os.environ["RAY_AUTH_TOKEN"] = sys.argv[2]  # by the user, since
with session(sys.argv[1]) as machines:
    print(machines.num_cpus)
assert os.environ["RAY_AUTH_TOKEN"] == sys.argv[2]
"""


def test_a_process_that_has_had_a_ray_of_its_own_can_use_a_cluster(head: Head, tmp_path: Path) -> None:
    """The cluster's token lies where `ray get-auth-token --generate` puts it, and no variable says which."""
    (tmp_path / ".ray").mkdir()
    token = head.environment["RAY_AUTH_TOKEN"]
    (tmp_path / ".ray" / "auth_token").write_text(token)
    environment = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    done = _run([sys.executable, "-c", EMBEDDED_THEN_CLUSTER, head.cluster, token], environment)
    assert (done.returncode, done.stdout) == (0, "2\n1\n2\n"), done.stderr


@pytest.mark.timeout(2 * LONGEST)  # the whole graph, twice, on a machine that may be busy
def test_ray_job_submit_runs_the_smoke_experiment(head: Head, project: Path, store: Path) -> None:
    overrides = [
        f"store={store}",
        "evaluate=null",
        "embed_clip.text_states.t5.path=t5",
        "embed_clip.text_states.t5.max_length=8",
    ]
    command = [
        str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", str(project), "--",
        "python", "-m", "pipeline", "run", "smoke.yaml", *overrides,
    ]  # fmt: skip
    done = _run(command, head.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [json.loads(p.read_text()) for p in store.glob("runs/*/run.json")]
    assert record["status"] == "done"

    # The same experiment again through `corgi submit`: the job finds everything done.
    again = [str(BIN / "corgi"), "submit", "smoke.yaml", *overrides, "--address", head.address, "--json"]
    done = _run(again, head.environment, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCEEDED"
    assert "everything is done" in done.stderr


@pytest.mark.parametrize("command", ["submit", "run"])
def test_a_cluster_without_its_token_is_reported(head: Head, command: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in head.environment.items() if not key.startswith("RAY_")}
    environment["HOME"] = "/nonexistent"  # no token file of the machine's user either
    words = {
        "submit": ["--address", head.address],
        "run": [f"cluster.address={head.cluster}", f"store={tmp_path}"],
    }
    done = _run([str(BIN / "corgi"), command, "configs/smoke.yaml", *words[command]], environment)
    assert done.returncode == 2
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_works_with_secrets_that_the_cluster_does_not_show(head: Head, tmp_path: Path) -> None:
    """The keys of the store stand in the config alone, so they reach the workers inside the arguments of tasks."""
    with serve_s3() as s3:
        options = {"s3": {"endpoint_url": s3.endpoint, "key": f"key-{CANARY}", "secret": f"secret-{CANARY}"}}
        source = {"kind": "scenes", "num_images": 8, "resolution": 16}
        store = s3.uri()
        config = {
            "store": store,
            "storage": {"options": options, "cache": str(tmp_path / "cache")},
            "download_shards": {"source": source, "rows_per_shard": 4, "image_size": 16},
        }
        project = tmp_path / "project"
        project.mkdir()
        (project / "job.yaml").write_text(yaml.safe_dump(config))
        (project / ".env").write_text(f"TOKEN=file-{CANARY}")
        environment = head.environment | {"HOME": str(tmp_path), "AWS_SESSION_TOKEN": f"session-{CANARY}"}
        command = [str(BIN / "corgi"), "submit", "job.yaml", "--address", head.address, "--json"]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (record,) = [json.loads(found) for name, found in s3.contents(store).items() if name.endswith("run.json")]
        assert record["status"] == "done"
    assert "package: 1 files, " in done.stderr
    assert "left out, may be a secret: .env" in done.stderr
    assert (
        "warning: job.yaml goes along and holds secrets (storage.options.s3.key, storage.options.s3.secret)"
        in done.stderr
    )
    assert re.search(r"does not get from here: .*AWS_SESSION_TOKEN", done.stderr)
    assert CANARY not in done.stdout + done.stderr
    headers = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        shown = reply.read().decode()
    assert json.loads(done.stdout)["job"] in shown
    assert CANARY not in shown
    packages = {"runtime_resources"}  # the config itself, which its users were warned of
    logs = [path for path in files_below(head.folder) if not packages & set(path.parts)]
    assert [str(path) for path in logs if CANARY.encode() in content_of(path)] == []
    assert any(path.suffix == ".log" for path in logs)


@pytest.mark.timeout(2 * LONGEST + 500)
def test_a_job_outlives_its_submitter_and_a_killed_driver_costs_no_unit(head: Head, tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = {
        "store": str(store),
        "download_shards": {
            "source": {"kind": "scenes", "num_images": 360, "resolution": 16}, "rows_per_shard": 2, "image_size": 16,
            "resources": {"num_workers": 1},
        },
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    command = [str(BIN / "corgi"), "submit", "job.yaml", "--address", head.address, "--json"]
    submitter = subprocess.Popen(
        command, cwd=tmp_path, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    made = _records_when(store, at_least=3)
    (driver,) = [one for one in psutil.Process(head.process.pid).children(recursive=True) if _drives(one)]
    submitter.send_signal(signal.SIGINT)
    _, said = submitter.communicate(timeout=200)
    assert submitter.returncode == 130, said
    assert "Traceback" not in said
    stop, job, options = _stop_command(said)
    assert stop == "ray job stop", said
    assert options == ["--address", head.address]

    made = _records_when(store, at_least=len(made) + 3)  # the job goes on without its submitter
    driver.kill()
    status = [str(BIN / "ray"), "job", "status", *options, job]
    until = time.monotonic() + 200
    while " failed" not in (reply := _run(status, head.environment)).stdout + reply.stderr:
        assert time.monotonic() < until, reply.stdout + reply.stderr
        time.sleep(1)
    made = _records(store)
    assert len(made) < 180

    again = _run(command, head.environment, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(_records(store)) == 180
    assert {name: mark for name, mark in _records(store).items() if name in made} == made


def _records(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.glob("artifacts/download_shards/*/units/*.json")}


def _records_when(store: Path, *, at_least: int) -> dict[str, int]:
    """Return the records of units as soon as there are so many."""
    until = time.monotonic() + 500
    while len(found := _records(store)) < at_least:
        assert time.monotonic() < until, f"{len(found)} units after 500 s"
        time.sleep(0.05)
    return found


def _stop_command(said: str) -> tuple[str, str, list[str]]:
    """Return the command that the submitter names to stop the job: its program, its job and its options."""
    (found,) = re.findall(r"stop it by `([^`]+)`", " ".join(said.split()))
    words = found.split()
    return " ".join(words[:3]), words[-1], words[3:-1]


def _drives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return words[1:4] == ["-m", "pipeline", "run"]
    return False


def test_a_model_that_a_job_made_outlives_ray_and_its_folder(head: Head, project: Path, store: Path) -> None:
    """After the first test; CLIP and T5 were among the job's own files, and the prior reads the states of both."""
    head.end()
    shutil.rmtree(project)
    # digests.db remembers files by their places, and MLflow's default experiment, which holds nothing, names a folder.
    kept = [path for path in store.rglob("*") if path.is_file() and path.suffix != ".db"]
    kept = [path for path in kept if path.parent.name != "logs"]
    assert [str(path) for path in kept if str(head.folder).encode() in path.read_bytes()] == []
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database:
        params = database.execute("SELECT key, value FROM params").fetchall()
    assert [key for key, value in params if str(head.folder) in value] == []
    (generated,) = store.glob("artifacts/generate/*")
    image = min(generated.glob("**/prior/*.png"))
    words = [str(BIN / "corgi"), "generate", "--again", str(image), "--out", str(store / "out"), "--json"]
    done = _run([*words, "--store", str(store)], head.environment)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["images"]
    assert found["pixel_equal"]
