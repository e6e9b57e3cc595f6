"""How long the commands take that look at a whole store: 500 runs and 2,000 artifacts, in a folder and on S3.

``python -m benchmarks.store [--runs N] [--s3]``. Each command is a process of its own, as at a user's; the seconds are
those of the wall and of the processor, as another program may use the machine meanwhile. The S3 server is moto's, which
answers some hundred requests a second from this same machine.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import fsspec

from pipeline.config.loading import load_config
from pipeline.plan import PlannedStage, make_plan
from pipeline.record import RunRecord
from pipeline.results import StageResult, close_record, new_record
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.stage import StageSummary
from stages.storage.artifact import COMPLETE
from tests.s3_server import serve_s3

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quickstart.yaml"
ARTIFACTS_PER_RUN = 4
MODELS = {"train_prior": "prior", "train_decoder": "decoder"}
COMMANDS = {"status": [], "status RUN": ["{run}"], "compare": ["{run}", "{other}"], "plan": [str(CONFIG)]}


def fill(store: Store, runs: int) -> list[str]:
    """Write so many finished runs, each with four artifacts of its own, and return their ids, the oldest first."""
    store.open_for_writing()
    return [_write_run(store, number) for number in range(runs)]


def _write_run(store: Store, number: int) -> str:
    config = load_config(CONFIG, [f"seed={number}", f"name=run{number % 7}", f"store={store.uri}"])
    plan = make_plan(config, _Empty(store.uri))
    results = {name: _result(name, number) for name in plan.stages}
    record = new_record(plan, "configs/quickstart.yaml", config.shown())
    record = close_record(record, results, plan, store, status="done")
    record.started = f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00.000+00:00"
    record.seconds, record.overhead_seconds = 300.0, 12.0
    store.write_run(record)
    for stage in itertools.islice(reversed(list(plan.stages.values())), ARTIFACTS_PER_RUN):
        _write_artifact(store, stage, results[stage.name])
    return plan.run


class _Empty(Store):
    """A store in which nothing is looked up: every plan would read all earlier records."""

    def runs(self, prefix: str = "") -> Iterator[RunRecord]:
        """Yield none."""
        return iter(())


def _result(stage: str, number: int) -> StageResult:
    metrics = {f"figure/{index}": number + index / 7 for index in range(20)}
    return StageResult(stage, "done", 30.0, 2.0, StageSummary(3600, counts={"images": 3600}, metrics=metrics))


def _write_artifact(store: Store, stage: PlannedStage, result: StageResult) -> None:
    output = store.output(stage.name, stage.fingerprint)
    assert result.summary is not None
    if stage.name in MODELS:
        header = json.dumps({"weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(64)
        output.write_json(f"{MODELS[stage.name]}/config.json", {})
        output.write_bytes(f"{MODELS[stage.name]}/model.safetensors", content)
    Manifest(
        stage=stage.name,
        fingerprint=stage.fingerprint,
        code_version=stage.config.code_version,
        config=stage.identity,
        inputs={},
        summary=result.summary,
    ).write(output)
    output.write_bytes(COMPLETE, b"")


def time_commands(store: str, runs: Sequence[str], environment: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return wall and processor seconds of each command on the store."""
    found = {}
    for name, words in COMMANDS.items():
        filled = [word.format(run=runs[0], other=runs[len(runs) // 2]) for word in words]
        where = [f"store={store}"] if name == "plan" else ["--store", store]
        command = [sys.executable, "-m", "pipeline", name.partition(" ")[0], *filled, *where]
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found[name] = (time.monotonic() - begun, used)
    return found


def copy_to(source: Path, target: str) -> None:
    """Copy a store from a folder to an address."""
    fs, root = fsspec.core.url_to_fs(target)
    fs.put(f"{source}/", root, recursive=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = fill(Store(folder), options.runs)
        _print("folder", time_commands(folder, runs, {}))
        if options.s3:
            with serve_s3() as server:
                os.environ |= server.environment
                copy_to(Path(folder), server.uri("store"))
                _print("S3, first time", time_commands(server.uri("store"), runs, {}))
                _print("S3, again", time_commands(server.uri("store"), runs, {}))


def _print(where: str, found: Mapping[str, tuple[float, float]]) -> None:
    for name, (wall, used) in found.items():
        print(f"{where:<16} {name:<12} {wall:6.2f} s, of which {used:5.2f} s of a processor")  # noqa: T201


if __name__ == "__main__":
    main()
