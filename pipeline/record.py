"""The record of a run: what run.json holds, and what ``--json`` prints."""

import datetime
from collections.abc import Mapping
from typing import Any

from pipeline.plan import Plan
from pipeline.results import StageResult
from pipeline.store import Store


def new_record(plan: Plan, config_path: str, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run that is about to start."""
    return {
        "run": plan.run,
        "name": plan.name,
        "status": "running",
        "started": _now(),
        "config_path": config_path,
        "config": resolved,
        "plan": {
            stage.name: {"fingerprint": stage.fingerprint, "identity": stage.identity} for stage in plan.stages.values()
        },
        "stages": [],
        "metrics": {},
        "artifacts": {},
        "mlflow": None,
    }


def close_record(
    record: dict[str, Any],
    results: Mapping[str, StageResult],
    plan: Plan,
    store: Store,
    *,
    status: str,
    seconds: float,
) -> dict[str, Any]:
    """Return the record with how every stage ended."""
    folder = store.log_folder(plan.run)
    stages = [
        {
            **_stage_entry(result),
            "fingerprint": plan.stages[name].fingerprint,
            "log": str(folder / f"{name}.log"),
        }
        for name, result in results.items()
    ]
    finished = {name for name, result in results.items() if result.state in {"done", "reused"}}
    return {
        **record,
        "status": status,
        "finished": _now(),
        "seconds": seconds,
        "stages": stages,
        "metrics": {
            f"{name}/{key}": value
            for name, result in results.items()
            for key, value in result.summary.get("metrics", {}).items()
        },
        "artifacts": {name: store.artifact(name, plan.stages[name].fingerprint).uri for name in finished},
    }


def _stage_entry(result: StageResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": result.name,
        "state": result.state,
        "seconds": round(result.seconds, 2),
        "startup_seconds": round(result.startup_seconds, 2),
    }
    if result.upstream:
        entry["followed"] = list(result.upstream)
    if result.error:
        entry |= {"error": result.error, "bad_input": result.bad_input}
    told = ("items", "item_name", "counts", "notes")
    return entry | {key: result.summary[key] for key in told if key in result.summary}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
