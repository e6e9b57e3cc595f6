"""A run that is killed or interrupted in any stage goes on where it was, and ends with the same data."""

import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import SMOKE, Finished, checksums, corgi, run_and_kill

DATA_STAGES = ("download_shards", "embed_clip", "fit_gaussians")
TRAINING_STAGES = ("train_prior", "train_decoder")
LAST_STAGES = ("generate", "evaluate")


def _without(*stages: str) -> list[str]:
    """Take stages out of the graph, to test the rest in less time."""
    return [f"{stage}=null" for stage in stages]


def _has(store: Path, stage: str, pattern: str) -> Callable[[], bool]:
    folder = store / "artifacts" / stage
    return lambda: any(folder.glob(f"*/{pattern}")) and not any(folder.glob("*/_COMPLETE"))


@pytest.mark.parametrize("stage", ["download_shards", "embed_clip"])
def test_killed_in_a_data_stage(stage: str, undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    words = [f"store={tmp_path}", *_without(*TRAINING_STAGES, *LAST_STAGES)]
    code = run_and_kill(_has(tmp_path, stage, "units/*.json"), *words)
    assert code == -signal.SIGKILL
    plan = corgi("plan", SMOKE, *words, "--json").document["stages"]
    assert next(s["state"] for s in plan if s["name"] == stage) == "partial"
    done = corgi("run", SMOKE, *words, "--json")
    assert done.code == 0, done.err
    for name in DATA_STAGES:
        assert checksums(tmp_path, name) == checksums(undisturbed[0], name)


@pytest.mark.parametrize("stage", TRAINING_STAGES)
def test_killed_in_training(stage: str, undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(undisturbed[0], tmp_path / "store", ignore=shutil.ignore_patterns("mlflow.db", "runs"))
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
    """One child run for the stage, and each metric once a step from the first to the last."""
    with sqlite3.connect(database) as connection:
        runs = connection.execute("SELECT run_uuid FROM runs WHERE name = ?", (stage,)).fetchall()
        assert len(runs) == 1
        query = "SELECT step, COUNT(*) FROM metrics WHERE run_uuid = ? AND key = 'loss' GROUP BY step ORDER BY step"
        steps = connection.execute(query, runs[0]).fetchall()
    assert [count for _, count in steps] == [1] * len(steps)
    assert steps[-1][0] == 100


def test_interrupted_by_the_user(tmp_path: Path) -> None:
    words = [f"store={tmp_path}"]
    code = run_and_kill(_has(tmp_path, "download_shards", "units/*.json"), *words, sign=signal.SIGINT)
    assert code == 130
    assert corgi("status", "--store", tmp_path, "--json").document["runs"][0]["status"] == "interrupted"


def test_a_failing_branch_leaves_the_other_standing(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(undisturbed[0], tmp_path / "store")
    (gaussians,) = store.glob("artifacts/fit_gaussians/*/gaussians.safetensors")
    gaussians.unlink()
    change = ["captions.fraction=0.9", "train_decoder.training.learning_rate=0.0005", f"store={store}"]
    done = corgi("run", SMOKE, *change, "--json")
    assert done.code == 3
    assert done.states == {
        "download_shards": "reused", "embed_clip": "reused", "fit_gaussians": "reused",
        "train_prior": "failed", "train_decoder": "done", "generate": "blocked", "evaluate": "blocked",
    }  # fmt: skip
    failed = next(s for s in done.document["stages"] if s["name"] == "train_prior")
    assert "gaussians.safetensors" in failed["error"]
    assert "checks.py" in Path(failed["log"]).read_text()  # the whole stack, down to where it went wrong
    assert "Traceback" not in done.err


def test_what_a_stage_refuses_is_the_users_to_mend(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(undisturbed[0], tmp_path / "store")
    done = corgi("run", SMOKE, "fit_gaussians.num_gaussians=5000", f"store={store}")
    assert done.code == 2
    assert "num_gaussians" in done.err
    assert "5000" in done.err
    assert "Traceback" not in done.err + done.out
