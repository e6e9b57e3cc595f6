"""A run that is killed or interrupted in any stage goes on where it was, and ends with the same data."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import SMOKE, Finished, corgi, run_and_kill

LAST_STAGES = ("generate", "evaluate")
LOGGED_STEPS = range(2, 101, 2)  # of the training that is killed


def _without(*stages: str) -> list[str]:
    """Take stages out of the graph, to test the rest in less time."""
    return [f"{stage}=null" for stage in stages]


def _has(store: Path, stage: str, pattern: str) -> Callable[[], bool]:
    folder = store / "artifacts" / stage
    return lambda: any(folder.glob(f"*/{pattern}")) and not any(folder.glob("*/_COMPLETE"))


def test_killed_in_training(unchanged: tuple[Path, Finished], tmp_path: Path) -> None:
    """In the decoder's; that each training goes on as if undisturbed is seen without Ray (test_resume.py)."""
    stage = "train_decoder"
    store = shutil.copytree(unchanged[0], tmp_path / "store", ignore=shutil.ignore_patterns("mlflow.db", "runs"))
    pace = {"num_steps": 100, "checkpoint_interval": 10, "validation_interval": 100}
    changes = [f"{stage}.training.{key}={value}" for key, value in pace.items()]
    words = [f"store={store}", *changes, *_without("train_prior", *LAST_STAGES)]
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
