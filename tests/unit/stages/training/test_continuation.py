"""A training of more steps goes on from a shorter one's checkpoint, to the very bytes of one that was never cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.training import launch_in_process
from stages.contract.events import Event, Log, LoggedSteps, Metrics, Progress
from stages.contract.stage import Allocation, StageContext, StageSummary
from stages.formats.checkpoints import BestRecord, ContinuedRecord, checkpoint_steps
from stages.storage.artifact import Output
from stages.training.config import BestConfig, PhasedTrainingConfig, TrainingConfig
from stages.training.launch import train
from tests.unit.stages.training.line import LineTask

MODEL = "line/model.safetensors"


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{"num_steps": 6, "batch_size": 8, "learning_rate": 0.02, "log_interval": 1, "precision": "float32",
           "warmup_steps": 2, "ema_decay": 0.9, "checkpoint_interval": 4} | changes
    )  # fmt: skip


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_line", folder.name)


def run(
    folder: Path, settings: TrainingConfig, *earlier: Path, task: LineTask | None = None
) -> tuple[StageSummary, list[Event]]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    context = replace(context, earlier=tuple(output_of(one) for one in earlier))
    summary = train(lambda: task or LineTask(), settings, seed=3, output=output_of(folder), context=context)
    return summary, events


def model_of(folder: Path) -> bytes:
    return (folder / MODEL).read_bytes()


def first_step(events: list[Event]) -> int:
    return next(event.done for event in events if isinstance(event, Progress))


@pytest.mark.parametrize("stage", [0, 3])
def test_more_steps_give_the_bytes_of_one_training(tmp_path: Path, stage: int) -> None:
    whole, short, long = (tmp_path / name for name in ("whole", "short", "long"))
    run(whole, config(num_steps=12, zero_stage=stage))
    run(short, config(zero_stage=stage))
    assert checkpoint_steps(output_of(short)) == [6]
    kept = model_of(short)
    summary, events = run(long, config(num_steps=12, zero_stage=stage), short)
    assert first_step(events) == 6
    assert "goes on from step 6 of artifact short" in next(one.message for one in events if isinstance(one, Log))
    assert model_of(long) == model_of(whole)
    assert summary.notes["continued_from"] == "step 6 of artifact short"
    assert ContinuedRecord.of(output_of(long)) == ContinuedRecord(fingerprint="short", step=6)
    assert checkpoint_steps(output_of(long)) == [12]
    assert (model_of(short), checkpoint_steps(output_of(short))) == (kept, [6])
    rows = [row for event in events if isinstance(event, LoggedSteps) for row in event.rows]
    own = [event.without_measures() for event in events if isinstance(event, Metrics)]
    assert rows == own  # none of the steps of the shorter one


def test_the_newest_checkpoint_of_all_is_taken_and_one_that_was_cut_counts_too(tmp_path: Path) -> None:
    names = ("whole", "short", "cut", "long")
    whole, short, cut, long = (tmp_path / name for name in names)
    run(whole, config(num_steps=12))
    run(short, config())
    with pytest.raises(ValueError, match="no data"):
        run(cut, config(num_steps=20), task=LineTask(fail_at=10))
    with pytest.raises(ValueError, match="no data"):
        run(long, config(num_steps=12), short, cut, task=LineTask(fail_at=11))
    _, events = run(long, config(num_steps=12), short)
    assert first_step(events) == 8  # its own
    assert ContinuedRecord.of(output_of(long)).fingerprint == "cut"
    assert model_of(long) == model_of(whole)


def test_a_schedule_that_depends_on_the_number_of_steps_starts_anew(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    run(short, config(schedule="cosine"))
    assert checkpoint_steps(output_of(short)) == []
    run(long, config(schedule="cosine", num_steps=12), short)
    assert ContinuedRecord.read(output_of(long)) is None


def test_no_checkpoint_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    run(tmp_path / "short", config(keep_checkpoint=False))
    assert not (tmp_path / "short" / "checkpoints").exists()


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, short, long = (tmp_path / name for name in ("whole", "short", "long"))
    run(whole, config(num_steps=12))
    run(short, config())
    file = short / "checkpoints" / "00000006" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    summary, events = run(long, config(num_steps=12), short)
    assert first_step(events) == 0
    assert "training starts anew" in caplog.text
    assert summary.notes.keys() == {"samples_per_second"}
    assert model_of(long) == model_of(whole)


def test_a_taking_that_was_cut_and_whose_source_is_gone_claims_nothing(tmp_path: Path) -> None:
    whole, long = tmp_path / "whole", tmp_path / "long"
    run(whole, config(num_steps=12))
    ContinuedRecord(fingerprint="gone", step=6).write(output_of(long))
    summary, events = run(long, config(num_steps=12))
    assert first_step(events) == 0
    assert "continued_from" not in summary.notes
    assert model_of(long) == model_of(whole)


def test_the_best_weights_so_far_are_taken_along(tmp_path: Path) -> None:
    whole, short, long = (tmp_path / name for name in ("whole", "short", "long"))
    best = config(best=BestConfig(metric="validation_loss", mode="highest"), validation_interval=3)
    run(whole, best.model_copy(update={"num_steps": 12}))
    run(short, best)
    summary, _ = run(long, best.model_copy(update={"num_steps": 12}), short)
    assert summary.metrics["best_step"] == 3  # which the longer training has never seen
    assert model_of(long) == model_of(whole)


def test_a_best_validation_after_the_checkpoint_is_not_taken_along(tmp_path: Path) -> None:
    """It is of steps that the training which goes on has not taken, or never will."""
    best = {"best": BestConfig(metric="validation_loss", mode="lowest"), "validation_interval": 1}
    longer, short, whole = (tmp_path / name for name in ("longer", "short", "whole"))
    with pytest.raises(ValueError, match="no data for step 11"):
        run(longer, config(num_steps=20, checkpoint_interval=4, **best), task=LineTask(fail_at=11))
    assert BestRecord.of(output_of(longer)).step > 9
    summary, events = run(short, config(num_steps=9, checkpoint_interval=4, **best), longer)
    assert first_step(events) == 8
    assert summary.metrics["best_step"] == 9
    run(whole, config(num_steps=9, checkpoint_interval=4, **best))
    assert model_of(short) == model_of(whole)


def test_an_end_between_the_last_checkpoint_and_the_model_loses_nothing(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, config())
    run(cut, config())
    for name in (MODEL, "units/model.json"):
        (cut / name).unlink()
    _, events = run(cut, config())
    assert first_step(events) == 6
    assert model_of(cut) == model_of(whole)


def test_steps_after_those_on_all_images_are_gone_on_with(tmp_path: Path) -> None:
    def phased(num_steps: int) -> TrainingConfig:
        return PhasedTrainingConfig.of(config(num_steps=4), config(num_steps=num_steps))

    whole, short, long = (tmp_path / name for name in ("whole", "short", "long"))
    run(whole, phased(8))
    run(short, phased(3))
    _, events = run(long, phased(8), short)
    assert first_step(events) == 7
    assert model_of(long) == model_of(whole)
