"""A run that is killed or interrupted in any stage goes on where it was, and ends with the same data."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from stages.download_shards.config import ScenesSource
from stages.download_shards.sources.scene_server import serve_scenes
from tests.e2e.conftest import CORGI, ROOT, SMOKE, Finished, checksums, clean_environment, corgi, run_and_kill

DATA_STAGES = ("download_shards", "embed_clip", "fit_gaussians")
TRAINING_STAGES = ("train_prior", "train_decoder")
LAST_STAGES = ("generate", "evaluate")
LOGGED_STEPS = range(2, 101, 2)  # of the trainings that are killed
NUM_SHARDS = 24
NUM_KILLS = int(os.environ.get("CORGI_KILLS", "3"))


def _without(*stages: str) -> list[str]:
    """Take stages out of the graph, to test the rest in less time."""
    return [f"{stage}=null" for stage in stages]


def _has(store: Path, stage: str, pattern: str) -> Callable[[], bool]:
    folder = store / "artifacts" / stage
    return lambda: any(folder.glob(f"*/{pattern}")) and not any(folder.glob("*/_COMPLETE"))


@pytest.fixture(scope="module")
def data_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What makes the smoke experiment one of data only, from a server that outlives every run."""
    source = ScenesSource(kind="scenes", num_images=114, num_dead_urls=4, num_corrupt=2, resolution=64)
    with serve_scenes(source) as (rows, base_url):
        path = tmp_path_factory.mktemp("list") / "list.parquet"
        urls = [base_url + url for url in rows["url"].to_pylist()]
        pq.write_table(pa.table({"url": urls, "caption": rows["caption"]}), path)
        yield [
            f"download_shards.source={{kind: url_list, path: {path}, caption_column: caption}}",
            "download_shards.allowed_networks=[127.0.0.1/32]",
            f"download_shards.rows_per_shard={120 // NUM_SHARDS}",
            "fit_gaussians={num_gaussians: 8, tolerance: 0}",
            *_without(*TRAINING_STAGES, *LAST_STAGES),
        ]


def _progress(store: Path, num_passes: int) -> float:
    """Return how far the three data stages are, each from 0 to 1, added up."""
    shards = sum(len(list((store / "artifacts").glob(f"{stage}/*/units/*.json"))) for stage in DATA_STAGES)
    passes = 0
    for state in store.glob("artifacts/fit_gaussians/*/checkpoints/state_*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            passes = len(load_file(state)["inertias"])
    return shards / NUM_SHARDS + passes / num_passes


def _run_and_kill_all(when: Callable[[], bool], *overrides: str) -> bool:
    """Run, and at the moment kill the process and all those that it started, Ray's among them, by SIGKILL.

    False: the run ended before; the last passes take less time than one look at them may.
    """
    with subprocess.Popen(
        [*CORGI, "run", str(SMOKE), *overrides],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not when():
            if process.poll() is not None:
                assert process.returncode == 0
                return False
            time.sleep(0.005)
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        assert process.wait(timeout=300) == -signal.SIGKILL
        _, alive = psutil.wait_procs(tree, timeout=300)
        assert not alive
    return True


@pytest.mark.timeout(300 + 120 * NUM_KILLS)
def test_killed_again_and_again_while_it_downloads_embeds_and_fits(data_words: list[str], tmp_path: Path) -> None:
    """Each instant is random, by progress beyond what the kill before left, evenly over what remains."""
    whole, store = tmp_path / "whole", tmp_path / "killed"
    assert corgi("run", SMOKE, f"store={whole}", *data_words).code == 0
    (fitted,) = whole.glob("artifacts/fit_gaussians/*/fit.json")
    num_passes = len(json.loads(fitted.read_text())["inertias"])
    chance = random.Random(20)
    words = [f"store={store}", *data_words]
    kills = 0
    while kills < NUM_KILLS:
        begun = _progress(store, num_passes)
        at = begun + 2.0 * chance.random() * (len(DATA_STAGES) - begun) / (NUM_KILLS - kills + 1)
        pause = chance.uniform(0.0, 0.1) if at < 2.0 else 0.0

        def is_now(begun: float = begun, at: float = at, pause: float = pause) -> bool:
            if not begun < _progress(store, num_passes) >= at:
                return False
            time.sleep(pause)
            return True

        if not _run_and_kill_all(is_now, *words):
            shutil.rmtree(store / "artifacts" / "fit_gaussians")
            continue
        kills += 1
        found = _progress(store, num_passes)
        sys.stdout.write(f"kill {kills} of {NUM_KILLS} at {at:.2f}, found {found:.2f} of 3 stages done\n")
    states = {stage["name"]: stage["state"] for stage in corgi("plan", SMOKE, *words, "--json").document["stages"]}
    assert states["fit_gaussians"] != "done"
    (record,) = store.glob("runs/*/run.json")
    record.write_bytes(cut := record.read_bytes()[:-40])  # as a disk may leave it whose power failed
    done = corgi("run", SMOKE, *words, "--json")
    assert done.code == 0, done.err
    assert "run.json.damaged" in " ".join(done.err.split())
    assert record.with_name("run.json.damaged").read_bytes() == cut
    assert json.loads(record.read_bytes())["status"] == "done"
    for name in DATA_STAGES:
        assert checksums(store, name) == checksums(whole, name)


@pytest.mark.parametrize("stage", TRAINING_STAGES)
def test_killed_in_training(stage: str, unchanged: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(unchanged[0], tmp_path / "store", ignore=shutil.ignore_patterns("mlflow.db", "runs"))
    other = set(TRAINING_STAGES) - {stage}
    pace = {"num_steps": 100, "checkpoint_interval": 10, "validation_interval": 100}
    changes = [f"{stage}.training.{key}={value}" for key, value in pace.items()]
    words = [f"store={store}", *changes, *_without(*other, *LAST_STAGES)]
    shutil.rmtree(store / "artifacts" / stage)
    code = run_and_kill(_has(store, stage, "units/*.json"), *words)
    assert code == -signal.SIGKILL
    plan = corgi("plan", SMOKE, *words, "--json").document["stages"]
    assert next(s["state"] for s in plan if s["name"] == stage) == "partial"
    done = corgi("run", SMOKE, *words, "--json")
    assert done.code == 0, done.err
    _assert_steps_without_doubles(store / "mlflow.db", stage)


def _assert_steps_without_doubles(database: Path, stage: str) -> None:
    """One child run for the stage, and each metric once at each step that is logged, whenever the kill was."""
    with sqlite3.connect(database) as connection:
        runs = connection.execute("SELECT run_uuid FROM runs WHERE name = ?", (stage,)).fetchall()
        assert len(runs) == 1
        query = "SELECT step, COUNT(*) FROM metrics WHERE run_uuid = ? AND key = 'loss' GROUP BY step ORDER BY step"
        steps = connection.execute(query, runs[0]).fetchall()
    assert steps == [(step, 1) for step in LOGGED_STEPS]


def test_interrupted_by_the_user(tmp_path: Path) -> None:
    words = [f"store={tmp_path}"]
    code = run_and_kill(_has(tmp_path, "download_shards", "units/*.json"), *words, sign=signal.SIGINT)
    assert code == 130
    assert corgi("status", "--store", tmp_path, "--json").document["runs"][0]["status"] == "interrupted"
    record = json.loads(next((tmp_path / "runs").glob("*/run.json")).read_text())
    in_hand = max(stage["seconds"] for stage in record["stages"] if stage["state"] == "interrupted")
    assert 0 < in_hand <= record["seconds"] - record["overhead_seconds"] + 1  # its time is not that of scheduling


def test_a_failing_branch_leaves_the_other_standing(unchanged: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(unchanged[0], tmp_path / "store")
    rates = ["train_prior.training.learning_rate=1.0e30", "train_decoder.training.learning_rate=0.0005"]
    done = corgi("run", SMOKE, *rates, f"store={store}", "--json")
    assert done.code == 3
    assert done.states == {
        "download_shards": "reused", "embed_clip": "reused", "fit_gaussians": "reused",
        "train_prior": "failed", "train_decoder": "done", "generate": "blocked", "evaluate": "blocked",
    }  # fmt: skip
    failed = next(s for s in done.document["stages"] if s["name"] == "train_prior")
    assert "lower training.learning_rate" in failed["error"]
    assert "loop.py" in Path(failed["log"]).read_text()  # the whole stack, down to where it went wrong
    assert "Traceback" not in done.err


def test_what_a_stage_refuses_is_the_users_to_mend(unchanged: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(unchanged[0], tmp_path / "store")
    done = corgi("run", SMOKE, "fit_gaussians.num_gaussians=5000", f"store={store}")
    assert done.code == 2
    assert "num_gaussians" in done.err
    assert "5000" in done.err
    assert "Traceback" not in done.err + done.out
