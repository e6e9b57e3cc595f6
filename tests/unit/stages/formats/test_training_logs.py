"""What a training logged, kept with its checkpoints and with the trained model: read as it was written, and checked."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.contract.errors import ArtifactError
from stages.contract.events import LoggedSteps, Metrics, RolledBack
from stages.formats.checkpoints import (
    Checkpoint,
    ContinuedRecord,
    RollBacksRecord,
    TrainedRecord,
    read_checkpoint,
    read_logged,
    take_checkpoint,
    write_checkpoint,
)
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.storage.artifact import Output

LOGGED = tuple(Metrics({"loss": 1 / step, "rate": math.inf}, step, time=1000 + step) for step in range(1, 7))
LOG = "checkpoints/00000003/log.json"


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_line", folder.name)


def save(output: Output, step: int) -> None:
    state = {"weights": {"w": torch.ones(2)}}
    write_checkpoint(output, Checkpoint(step, state, logged=LoggedSteps(LOGGED[:step])), keep=2)


def finish(output: Output) -> None:
    with output.collecting():
        write_log(output, TRAINING_LOG, LoggedSteps(LOGGED))
        TrainedRecord(step=6, metrics={}).write(output)


def test_a_checkpoint_keeps_what_was_logged_and_the_trained_model_all_of_it(tmp_path: Path) -> None:
    output = output_of(tmp_path)
    assert read_logged(output).rows == ()
    for step in (2, 3, 4):
        save(output, step)
        assert read_checkpoint(output, step).logged.rows == read_logged(output).rows == LOGGED[:step]
    assert not (tmp_path / "checkpoints" / "00000002").exists()  # pruned as a whole
    finish(output)
    assert read_logged(output).rows == LOGGED


def test_roll_backs_are_kept_with_the_log_and_before_there_is_a_checkpoint_after_them(tmp_path: Path) -> None:
    output, (first, second, third) = (
        output_of(tmp_path),
        (RolledBack(0, 2, 500), RolledBack(2, 5, 900), RolledBack(2, 4, 950)),
    )
    kept = RollBacksRecord().adding(first, 2)
    kept.write(output)
    assert read_logged(output) == LoggedSteps((), (first,))
    logged = LoggedSteps(LOGGED[:3], (first, second))
    write_checkpoint(output, Checkpoint(3, {"weights": {"w": torch.ones(2)}}, logged=logged), keep=2)
    assert read_checkpoint(output, 3).logged == read_logged(output) == logged
    kept = kept.adding(second, 7).adding(third, 11)
    kept.write(output)
    assert [RollBacksRecord.read(output).data_step_at(step) for step in (0, 1, 2, 4)] == [2, 2, 11, 11]
    assert read_logged(output) == LoggedSteps(LOGGED[:3], (first, second, third))
    ContinuedRecord(fingerprint="f1", step=2).write(output)  # the training before had rolled back to the beginning
    assert read_logged(output) == LoggedSteps(LOGGED[2:3], (second, third))


def test_a_damaged_record_of_roll_backs_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / RollBacksRecord.file).write_text('{"rows": [[1]]}')
    assert RollBacksRecord.read(output_of(tmp_path)) == RollBacksRecord()
    assert "earlier roll backs are forgotten" in caplog.text


def test_what_an_earlier_version_wrote_has_no_log(tmp_path: Path) -> None:
    output = output_of(tmp_path)
    with output.collecting():
        with output.writing("checkpoints/00000003/weights.safetensors") as path:
            save_file({"w": torch.ones(2)}, path)
        output.write_record("units/checkpoint_00000003.json", {"step": 3, "parts": ["weights"]})
    assert read_checkpoint(output, 3).logged.rows == ()
    TrainedRecord(step=6, metrics={}).write(output)
    assert read_logged(output).rows == ()


def test_a_damaged_log_is_found_and_that_of_the_checkpoint_before_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = output_of(tmp_path)
    save(output, 2)
    save(output, 3)
    (tmp_path / LOG).write_bytes((tmp_path / LOG).read_bytes().replace(b"1001", b"1002"))
    with pytest.raises(ArtifactError, match=r"log\.json"):
        read_checkpoint(output, 3)
    assert read_logged(output).rows == LOGGED[:2]
    assert "log.json" in caplog.text


def test_what_the_training_before_had_logged_is_not_the_longer_ones(tmp_path: Path) -> None:
    short, long = output_of(tmp_path / "short"), output_of(tmp_path / "long")
    save(short, 3)
    take_checkpoint(short, 3, long)
    assert read_checkpoint(long, 3).logged.rows == LOGGED[:3]
    assert ContinuedRecord.of(long).step == 3
    assert read_logged(long).rows == ()
    save(long, 5)
    assert read_logged(long).rows == LOGGED[3:5]
    finish(long)
    assert read_logged(long).rows == LOGGED[3:]
