"""What a training logged, kept with its checkpoints and with the trained model: read as it was written, and checked."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.contract.errors import ArtifactError
from stages.contract.events import Metrics
from stages.formats.checkpoints import (
    Checkpoint,
    ContinuedRecord,
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
    write_checkpoint(output, Checkpoint(step, state, logged=LOGGED[:step]), keep=2)


def finish(output: Output) -> None:
    with output.collecting():
        write_log(output, TRAINING_LOG, LOGGED)
        TrainedRecord(step=6, metrics={}).write(output)


def test_a_checkpoint_keeps_what_was_logged_and_the_trained_model_all_of_it(tmp_path: Path) -> None:
    output = output_of(tmp_path)
    assert read_logged(output) == ()
    for step in (2, 3, 4):
        save(output, step)
        assert read_checkpoint(output, step).logged == read_logged(output) == LOGGED[:step]
    assert not (tmp_path / "checkpoints" / "00000002").exists()  # pruned as a whole
    finish(output)
    assert read_logged(output) == LOGGED


def test_what_an_earlier_version_wrote_has_no_log(tmp_path: Path) -> None:
    output = output_of(tmp_path)
    with output.collecting():
        with output.writing("checkpoints/00000003/weights.safetensors") as path:
            save_file({"w": torch.ones(2)}, path)
        output.write_record("units/checkpoint_00000003.json", {"step": 3, "parts": ["weights"]})
    assert read_checkpoint(output, 3).logged == ()
    TrainedRecord(step=6, metrics={}).write(output)
    assert read_logged(output) == ()


def test_a_damaged_log_is_found_and_that_of_the_checkpoint_before_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = output_of(tmp_path)
    save(output, 2)
    save(output, 3)
    (tmp_path / LOG).write_bytes((tmp_path / LOG).read_bytes().replace(b"1001", b"1002"))
    with pytest.raises(ArtifactError, match=r"log\.json"):
        read_checkpoint(output, 3)
    assert read_logged(output) == LOGGED[:2]
    assert "log.json" in caplog.text


def test_what_the_training_before_had_logged_is_not_the_longer_ones(tmp_path: Path) -> None:
    short, long = output_of(tmp_path / "short"), output_of(tmp_path / "long")
    save(short, 3)
    take_checkpoint(short, 3, long)
    assert read_checkpoint(long, 3).logged == LOGGED[:3]
    assert ContinuedRecord.of(long).step == 3
    assert read_logged(long) == ()
    save(long, 5)
    assert read_logged(long) == LOGGED[3:5]
    finish(long)
    assert read_logged(long) == LOGGED[3:]
