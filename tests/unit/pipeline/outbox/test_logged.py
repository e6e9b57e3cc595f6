"""What is recorded of trainings that are done, where an earlier start of the run was killed before it was."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.outbox.kept import start_delivery
from pipeline.outbox.logged import steps_to_record
from pipeline.outbox.operations import StepsLogged, from_line
from pipeline.plan import Plan, make_plan
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.events import LoggedSteps, Metrics
from stages.formats.checkpoints import TrainedRecord
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.storage.artifact import COMPLETE, Output
from tests.factories import make_entry, make_record

DISTILLATION = (
    "train_prior.distillation={num_steps: 5, sampling_steps: 2, teacher_steps: 8, guidance_scale: 2.0, "
    "learning_rate: 0.001}"
)


def log(output: Output, *steps: int) -> None:
    with output.collecting():
        rows = tuple(Metrics({"loss": 1.0}, step, time=1000 * step) for step in steps)
        write_log(output, TRAINING_LOG, LoggedSteps(rows))
        TrainedRecord(step=steps[-1], metrics={}).write(output)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def planned(store: Store, *overrides: str) -> Plan:
    """Plan an experiment whose training of the prior is done."""
    config = load_config("configs/smoke.yaml", overrides)
    stage = make_plan(config, store).stages["train_prior"]
    output = store.output("train_prior", stage.fingerprint)
    for part in stage.config.parts:  # type: ignore[attr-defined]
        log(Output(f"{output.uri}/{part.folder}".rstrip("/"), "train_prior", stage.fingerprint), 1, 2)
    output.write_bytes(COMPLETE, b"")
    return make_plan(config, store)


def earlier(state: str, status: str = "running") -> RunRecord:
    return make_record("smoke-1", status=status, stages=[make_entry("train_prior", state), make_entry("embed_clip")])


def rows(found: list[StepsLogged]) -> list[tuple[int, int, dict[str, float]]]:
    return [row for operation in found for row in operation.rows]


@pytest.mark.parametrize("record", [earlier("running"), earlier("interrupted", "interrupted"), earlier("done")])
def test_of_a_run_that_was_killed_the_trainings_that_it_made_are_recorded(store: Store, record: RunRecord) -> None:
    (found,) = steps_to_record(planned(store), store, record)
    assert found.stage == "train_prior"
    assert found.rows == [(1, 1000, {"loss": 1.0}), (2, 2000, {"loss": 1.0})]


@pytest.mark.parametrize("record", [None, earlier("reused"), earlier("done", "done"), make_record("smoke-1")])
def test_what_was_recorded_or_made_by_another_run_is_not(store: Store, record: RunRecord | None) -> None:
    assert steps_to_record(planned(store), store, record) == []


def test_a_distilled_prior_has_the_steps_of_its_teacher_too(store: Store) -> None:
    plan = planned(store, DISTILLATION)
    teacher, student = plan.stages["train_prior"].config.parts  # type: ignore[attr-defined]
    found = rows(steps_to_record(plan, store, earlier("running")))
    assert [(step, *values) for step, _, values in found] == [
        (1, "teacher_loss"),
        (2, "teacher_loss"),
        (student.first_step + 1, "loss"),
        (student.first_step + 2, "loss"),
    ]
    assert (teacher.first_step, student.first_step > 2) == (0, True)


def test_they_are_kept_before_the_record_is_written_that_forgets_them(store: Store) -> None:
    missed = steps_to_record(planned(store), store, earlier("running"))
    record = make_record("smoke-1")
    delivery = start_delivery(record, store, "http://127.0.0.1:9", None, lambda text: None, missed=missed)
    (file,) = store.tracking_folder("smoke-1").glob("*.jsonl")
    (line,) = (Path(store.uri) / "runs" / "smoke-1" / "tracking" / file).read_bytes().splitlines(keepends=True)
    assert from_line(line) == missed[0]
    assert delivery.close(0) == 1
