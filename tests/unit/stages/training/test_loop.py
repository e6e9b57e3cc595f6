"""The loop in one process: it learns, repeats itself bit by bit, and goes on after a kill as if nothing had been."""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cluster.rank_link import request_end
from cluster.training import launch_in_process
from stages.contract.errors import ArtifactError, DamagedFile, EndRequested, InputFault
from stages.contract.events import Event, LoggedSteps, Metrics, Progress
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import checkpoint_steps, read_checkpoint
from stages.formats.model_folders import load_model_config
from stages.training.launch import train
from stages.training.loader import parts_of
from stages.training.task import Batch, BatchPart, RankInfo
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import assert_same, config, losses, output_of, run, weights

RATES = ("samples_per_second", "data_wait_fraction", "cpu_utilisation")


def test_slow_steps_are_reported_before_they_are_logged(tmp_path: Path) -> None:
    _, events = run(tmp_path, config(num_steps=6, log_interval=6, schedule="constant"), LineTask(pause=1.2))
    reports = [(type(event), event.done if isinstance(event, Progress) else event.step) for event in events
            if (isinstance(event, Progress) and not event.note) or "loss" in getattr(event, "values", {})]  # fmt: skip
    early = [number for kind, number in reports if kind is Progress and 0 < number < 6]
    assert early == sorted(set(early))
    assert len(early) >= 2
    assert reports[-2:] == [(Progress, 6), (Metrics, 6)], "what shows both shows them of the same step"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_trains_alike(tmp_path: Path, stage: int) -> None:
    _, plain = run(tmp_path / "plain", config())
    result, events = run(tmp_path / "zero", config(zero_stage=stage))
    assert losses(events) == pytest.approx(losses(plain), rel=1e-5)
    assert_same(weights(tmp_path / "zero"), weights(tmp_path / "plain"), 1e-5)
    assert result.items == 96
    assert result.metrics["validation_loss"] < losses(events)[1] * 0.6


def test_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    _, first = run(tmp_path / "a", config(precision="auto"))
    _, second = run(tmp_path / "b", config(precision="auto"))
    assert losses(first) == losses(second)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resumed_training_equals_undisturbed(tmp_path: Path, stage: int) -> None:
    _, whole = run(tmp_path / "whole", config(zero_stage=stage))
    with pytest.raises(ValueError, match="no data for step 10"):
        run(tmp_path / "cut", config(zero_stage=stage), LineTask(fail_at=10))
    assert checkpoint_steps(output_of(tmp_path / "cut")) == [4, 8]
    _, rest = run(tmp_path / "cut", config(zero_stage=stage))
    expected = losses(whole)
    assert losses(rest) == {step: expected[step] for step in range(9, 13)}
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("stage", [0, 2])
def test_training_that_is_asked_to_end_keeps_every_step(tmp_path: Path, stage: int) -> None:
    run(tmp_path / "whole", config(zero_stage=stage))

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 6:
            request_end()

    context = StageContext(emit, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    with pytest.raises(EndRequested, match="after step 6"):
        train(LineTask, config(zero_stage=stage), seed=3, output=output_of(tmp_path / "cut"), context=context)
    assert checkpoint_steps(output_of(tmp_path / "cut")) == [4, 6]
    _, rest = run(tmp_path / "cut", config(zero_stage=stage))
    assert list(losses(rest)) == list(range(7, 13))  # no step is taken twice
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("at", [0, 4])
def test_an_end_without_new_steps_writes_no_checkpoint(tmp_path: Path, at: int) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.done == at:
            request_end()

    context = StageContext(emit, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    with pytest.raises(EndRequested, match=f"after step {at}"):
        train(LineTask, config(), seed=3, output=output_of(tmp_path), context=context)
    assert checkpoint_steps(output_of(tmp_path)) == ([4] if at else [])


def test_a_checkpoint_fits_another_zero_stage(tmp_path: Path) -> None:
    run(tmp_path / "whole", config())
    with pytest.raises(ValueError, match="no data"):
        run(tmp_path / "cut", config(zero_stage=3), LineTask(fail_at=10))
    run(tmp_path / "cut", config(zero_stage=1, gradient_accumulation=2))
    assert set(weights(tmp_path / "cut")) == set(weights(tmp_path / "whole"))


def test_accumulation_leaves_the_result_the_same(tmp_path: Path) -> None:
    _, plain = run(tmp_path / "plain", config(), LineTask(dropout=False))
    _, parts = run(tmp_path / "parts", config(gradient_accumulation=4), LineTask(dropout=False))
    assert losses(parts) == pytest.approx(losses(plain), rel=1e-5)


class IdleWeightTask(LineTask):
    """Trains a model of which one weight has no part in the loss."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        model.register_parameter("idle", nn.Parameter(torch.ones(2)))
        return model


def test_a_weight_without_a_gradient_is_kept_in_checkpoints(tmp_path: Path) -> None:
    settings = config(weight_decay=0.0)
    run(tmp_path / "whole", settings, IdleWeightTask())
    with pytest.raises(ValueError, match="no data for step 10"):
        run(tmp_path / "cut", settings, IdleWeightTask(fail_at=10))
    run(tmp_path / "cut", settings, IdleWeightTask())
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert weights(tmp_path / "cut")["idle"].tolist() == [1, 1]


def test_a_finished_model_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path, config())
    again, events = run(tmp_path, config(), LineTask(fail_at=0))
    assert again == first
    assert all(isinstance(event, LoggedSteps) for event in events)
    assert checkpoint_steps(output_of(tmp_path)) == []
    assert not (tmp_path / "checkpoints").exists()
    assert load_model_config(output_of(tmp_path), "line") == {"width": 8}


def test_metrics_show_how_training_goes(tmp_path: Path) -> None:
    _, events = run(tmp_path, config(log_interval=5, validation_interval=4))
    logged = [e for e in events if isinstance(e, Metrics)]
    assert [e.step for e in logged if "loss" in e.values] == [5, 10, 12]
    assert [e.step for e in logged if "validation_loss" in e.values] == [4, 8, 12]
    names = {"loss", "absolute", "grad_norm", "learning_rate", *RATES}
    assert set(logged[0].values) == names or set(logged[1].values) == names


class SlowTask(LineTask):
    """Takes so many seconds to prepare a batch; the first one is what it validates on, too."""

    def __init__(self, *, first: float, later: float) -> None:
        super().__init__()
        self.first, self.later = first, later

    def prepare(self, part: BatchPart) -> Batch:
        time.sleep(self.later if part.step else self.first)
        return super().prepare(part)


def test_the_rate_is_that_of_the_steps_without_start_up_and_validation(tmp_path: Path) -> None:
    begun = time.monotonic()
    result, _ = run(tmp_path, config(validation_interval=4), SlowTask(first=2.0, later=0.0))
    left_out = time.monotonic() - begun - 11 * 8 / result.metrics["samples_per_second"]
    assert left_out > 8.0  # the start and three validations
    assert 0 < result.metrics["cpu_utilisation"] < 1.5
    assert not set(RATES) & set(run(tmp_path / "once", config(num_steps=1, warmup_steps=0))[0].metrics)


def test_the_fraction_of_time_that_the_loop_waits_for_data_is_reported(tmp_path: Path) -> None:
    waiting, events = run(tmp_path / "slow", config(log_interval=6), SlowTask(first=0.0, later=0.3))
    assert 0.5 < waiting.metrics["data_wait_fraction"] <= 1
    logged = [e.values["data_wait_fraction"] for e in events if isinstance(e, Metrics) and "loss" in e.values]
    assert [fraction > 0.5 for fraction in logged] == [True] * 2
    swift, _ = run(tmp_path / "swift", config())
    assert swift.metrics["data_wait_fraction"] < waiting.metrics["data_wait_fraction"]


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"training\.batch_size: found 8: expected a multiple of 3"):
        run(tmp_path, config(gradient_accumulation=3))


class UnvalidatedTask(LineTask):
    """Fails in validation, while batches are still prepared."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        raise ValueError(f"no validation after step {step}")


def test_nothing_is_prepared_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no validation after step 4"):
        run(tmp_path, config(num_steps=100, validation_interval=4), UnvalidatedTask())
    assert "corgi-loader" not in {thread.name for thread in threading.enumerate()}


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"):
        run(tmp_path, config(), LineTask(fail_at=6))
    with pytest.raises(ArtifactError, match=r"checkpoint of step 4 in .* does not fit .*\[8, 3\].*\[9, 3\]"):
        run(tmp_path, config(), LineTask(hidden=9))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_workers_together_see_what_one_sees(world_size: int, num_parts: int) -> None:
    task = LineTask(seed=5)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    for step in (0, 2, 9):  # the epoch has 24 samples: the third step is the end of one, the tenth lies in another
        whole = task.prepare(BatchPart(step, 0, 8, 8))
        rank_infos = [RankInfo(rank, world_size, torch.device("cpu")) for rank in range(world_size)]
        parts = [task.prepare(part) for rank_info in rank_infos for part in parts_of(step, 8, num_parts, rank_info)]
        for name, value in whole.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), value)


class WorseTask(LineTask):
    """Is validated best after the fourth of twelve steps."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        return [Metrics({"score": -abs(step - 4.0)}, step)]


def test_the_weights_of_the_best_validation_are_saved(tmp_path: Path) -> None:
    best = {"metric": "score", "mode": "highest"}
    task, last = WorseTask(), WorseTask()
    result, _ = run(tmp_path / "best", config(validation_interval=4, best=best), task)
    assert (result.metrics["score"], result.metrics["best_step"]) == (0.0, 4.0)
    run(tmp_path / "short", config(num_steps=12), last)
    for folder, one, step in (("best", task, 4), ("short", last, 12)):
        ((examined, examined_weights),) = one.examined
        assert examined == step
        assert_same(examined_weights, weights(tmp_path / folder))
    with pytest.raises(ValueError, match="no data for step 5"):
        run(tmp_path / "four", config(checkpoint_interval=4), LineTask(fail_at=5))
    average = read_checkpoint(output_of(tmp_path / "four"), 4).state["average"]
    found = weights(tmp_path / "best")
    assert all(torch.equal(found[name], value) for name, value in average.items())
    assert any(not torch.equal(weights(tmp_path / "short")[name], value) for name, value in average.items())
    with pytest.raises(InputFault, match=r"training\.best\.metric: found 'scor' \(nearest: score\)"):
        run(tmp_path / "wrong", config(best={"metric": "scor", "mode": "highest"}), WorseTask())


@pytest.mark.parametrize("in_background", [False, True])
def test_a_checkpoint_holds_the_state_of_its_step_also_when_it_is_written_later(
    tmp_path: Path, *, in_background: bool
) -> None:
    with pytest.raises(ValueError, match="no data for step 10"):
        run(tmp_path, config(async_checkpoints=in_background), LineTask(fail_at=10))
    assert checkpoint_steps(output_of(tmp_path)) == [4, 8]
    with pytest.raises(ValueError, match="no data for step 5"):
        run(tmp_path / "four", config(async_checkpoints=not in_background), LineTask(fail_at=5))
    one, other = (read_checkpoint(output_of(folder), 4).state for folder in (tmp_path, tmp_path / "four"))
    for part, tensors in one.items():
        assert_same(dict(tensors), dict(other[part]))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-1] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)


@pytest.mark.parametrize("how", ["flipped", "cut", "record"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, whole = run(tmp_path / "whole", config())
    with pytest.raises(ValueError, match="no data for step 10"):
        run(tmp_path / "cut", config(), LineTask(fail_at=10))
    record = tmp_path / "cut/units/checkpoint_00000008.json"
    if how == "record":
        record.write_text("{")
    else:
        damage(tmp_path / "cut/checkpoints/00000008/exp_avg.safetensors", how)
    _, rest = run(tmp_path / "cut", config())
    assert losses(rest) == {step: losses(whole)[step] for step in range(5, 13)}
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert "00000008" in caplog.text
    assert "going on from the checkpoint before it" in caplog.text


def test_damaged_weights_of_the_best_validation_are_set_aside_and_others_are_found(tmp_path: Path) -> None:
    best = {"metric": "score", "mode": "highest"}
    options = config(validation_interval=4, best=best, checkpoint_interval=4)
    task = WorseTask(fail_at=10)
    with pytest.raises(ValueError, match="no data for step 10"):
        run(tmp_path / "cut", options, task)
    damage(tmp_path / "cut/checkpoints/best_00000004.safetensors", "flipped")
    with pytest.raises(DamagedFile, match=r"best_00000004\.safetensors: found other bytes"):
        run(tmp_path / "cut", options, WorseTask())
    result, _ = run(tmp_path / "cut", options, WorseTask())
    assert result.metrics["best_step"] > 4


class UndefinedTask(WorseTask):
    """Has a metric beside the chosen one that is none, and none of the chosen one at the last validation."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        score = math.nan if step == 12 else -abs(step - 4.0)
        return [Metrics({"score": score, "other": math.nan}, step)]


def test_a_validation_without_a_number_is_not_the_best(tmp_path: Path) -> None:
    best = {"metric": "score", "mode": "highest"}
    result, _ = run(tmp_path, config(validation_interval=4, best=best), UndefinedTask())
    assert result.metrics["best_step"] == 4.0


def test_half_precision_without_a_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="'auto', 'float32' or 'bfloat16'"):
        config(precision="float16")
