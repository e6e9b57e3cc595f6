"""How an artifact is sealed."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from stages.contract.runner import run_stage
from stages.contract.stage import StageConfig, StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context


class _Config(StageConfig):
    stage: ClassVar[str] = "test_stage"


def _lose_a_worker(
    config: _Config, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    writing = output.writing("shards/00000.tar")
    writing.__enter__().write_bytes(b"half")  # and never left: what SIGKILL does
    output.write_bytes("shards/00000.tar", b"whole")  # by the worker that got the item after it
    _lost.append(writing)
    return StageSummary(items=1)


_lost: list[object] = []  # so that it is not closed


def test_what_a_lost_worker_has_begun_is_not_part_of_the_artifact(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "test_stage", "f0")
    run_stage(_lose_a_worker, _Config(), inputs={}, output=output, context=make_context())
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["_COMPLETE", "manifest.json", "shards/00000.tar"]
    _lost.clear()
