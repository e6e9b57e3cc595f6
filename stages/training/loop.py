"""The one training loop: data, model, engine, steps, save. Stages start it by :mod:`stages.training.launch`."""

import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from torch import nn

from cluster.rank_link import note_step
from stages.contract.errors import ArtifactError, Diverged, EndRequested, FailureCause
from stages.contract.events import Event, LoggedImage, LoggedSteps, Metrics, Progress, RolledBack
from stages.formats.checkpoints import (
    BestRecord,
    Checkpoint,
    RollBacksRecord,
    TrainedRecord,
    joined,
)
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.storage.artifact import Output
from stages.training.beginning import agreed_beginning
from stages.training.best import keep_if_best, load_best, only_finite
from stages.training.ending import EndVote
from stages.training.engine import Engine, join_group, leave_group
from stages.training.job import TrainJob
from stages.training.loader import Loader, parts_of
from stages.training.measuring import Measured
from stages.training.meter import Meter
from stages.training.overfitting import ValidationHistory
from stages.training.task import Batch, RankInfo
from stages.training.writer import CheckpointWriter

Emit = Callable[[Event], None]
_MOST_ROLL_BACKS = 3
_REPORT_SECONDS = 2.0  # at most between two reports of the progress, however rarely steps are logged
_log = logging.getLogger(__name__)


def run_training(job: TrainJob, emit: Emit) -> None:
    """Train as one process of the group.

    Raises:
        Diverged: a step went wrong and ``training.bad_steps`` is stop, or what else it says did not help.
        EndRequested: the group was asked to end; a checkpoint holds all steps that it has taken.
    """
    rank_info = join_group(use_gpu=job.use_gpu)
    try:
        vote = EndVote(rank_info)
        bad = _train_until_bad(job, rank_info, emit, None, vote)
        while bad is not None:
            bad = _train_until_bad(job, rank_info, emit, bad, vote)
    finally:
        leave_group()


@dataclass(frozen=True)
class _Bad:
    """A bad step was noticed after so many steps, with the samples so many steps ahead."""

    step: int
    skipped: int

    @property
    def data_step(self) -> int:
        """The samples of the steps before it are passed over from now on."""
        return self.step + self.skipped


class _RollBack(Exception):
    """The loop is to go on from the newest checkpoint."""


def _train_until_bad(job: TrainJob, rank_info: RankInfo, emit: Emit, bad: _Bad | None, vote: EndVote) -> _Bad | None:
    """Train to the end and return None, or to a bad step after which the config says to roll back.

    ``bad``: the one that the newest checkpoint is gone back to for.
    """
    with contextlib.closing(_Run(job, rank_info, emit, bad)) as run:
        step, seconds = run.first_step, 0.0
        try:
            for step in range(run.first_step, job.config.num_steps):
                if vote.poll(seconds):
                    run.end(step)
                begun = time.monotonic()
                run.step(step)
                seconds = time.monotonic() - begun
            run.finish()
        except _RollBack:
            run.written()
            run.close()
            if rank_info.world_size > 1:
                torch.distributed.barrier()  # until rank 0 has written the newest checkpoint
            return _Bad(step + 1, run.skipped)
    return None


class _Run:
    """What a training process holds while it trains."""

    def __init__(self, job: TrainJob, rank_info: RankInfo, emit: Emit, bad: _Bad | None) -> None:
        self._job, self._rank_info = job, rank_info
        self._task, self._config = job.make_task(), job.config
        self._send = emit
        self._task.setup(rank_info)
        self._start_engine(bad)
        self._ema_model: nn.Module | None = None
        self._metrics: dict[str, float] = {}
        self._measured = Measured({}, {})
        self._history = ValidationHistory(self._config, job.output, self.first_step, self._task.has_direction)
        config = self._config
        self._meter = Meter(config.batch_size, rank_info)
        self._writer = CheckpointWriter(job.output, keep=config.max_checkpoints, in_background=config.async_checkpoints)
        self._report(self.first_step)
        self._loader = Loader(
            self._task, rank_info, batch_size=config.batch_size, num_parts=config.gradient_accumulation,
            steps=range(self.first_step, config.num_steps), skipped=self.skipped, prefetch=config.prefetch_batches,
        )  # fmt: skip

    def _start_engine(self, bad: _Bad | None) -> None:
        """Build the model and its engine, from the newest checkpoint that all processes read, if there is one."""
        job, config, rank_info = self._job, self._config, self._rank_info
        _seed_all(job.seed)
        model = self._task.build_model()
        checkpoint, kept = agreed_beginning(job.output, rank_info)
        self.first_step = checkpoint.step if checkpoint else 0
        self._logged = list(checkpoint.logged.rows) if checkpoint else []
        self._go_back(bad, checkpoint, kept)
        if checkpoint is not None:
            _load_weights(model, checkpoint, job.output)
        self._engine = Engine(model, config, rank_info)
        if checkpoint is not None:
            self._task.left_out.update(checkpoint.left_out)
            updates = checkpoint.step if checkpoint.num_updates is None else checkpoint.num_updates
            last, skipped = checkpoint.step - 1, checkpoint.skipped  # whose samples gave the step before the checkpoint
            self._engine.restore(checkpoint.state, updates, lambda: self._batch_of(last, skipped))

    def _go_back(self, bad: _Bad | None, checkpoint: Checkpoint | None, kept: RollBacksRecord) -> None:
        """Pass over the samples that a roll back leaves out, this one or one of an earlier start; report this one."""
        self._roll_backs = joined(checkpoint.logged.roll_backs if checkpoint else (), kept.roll_backs)
        data_step = bad.data_step if bad else kept.data_step_at(self.first_step)
        self.skipped = max(data_step - self.first_step, checkpoint.skipped if checkpoint else 0)
        if bad is None:
            return
        if sum(one.to_step == self.first_step for one in self._roll_backs) >= _MOST_ROLL_BACKS:
            raise _diverged(bad.step, f"and again after going back to step {self.first_step} {_MOST_ROLL_BACKS} times")
        rolled_back = RolledBack(self.first_step, bad.step, self._time())
        self._roll_backs += (rolled_back,)
        # The best weights so far stay, also those of a step that is taken again: no bad step has led to them, as each
        # validation looks for these first, and none were better. It is the same where training is killed in between:
        # weights that are validated again replace them where they are better.
        if self._rank_info.rank == 0:  # kept first: what is reported holds from then on
            kept.adding(rolled_back, data_step).write(self._job.output)
            words = "a step before step %d went wrong: going back to step %d, with other samples"
            _log.warning(words, bad.step, self.first_step)
        self._emit(rolled_back)

    def _time(self) -> int:
        """Return the time in milliseconds: after the last roll back, also by the clock of another machine."""
        now = time.time_ns() // 1_000_000
        return max(now, self._roll_backs[-1].time + 1) if self._roll_backs else now

    def _batch_of(self, step: int, skipped: int) -> Batch:
        """Return this process's first part of the samples of a step."""
        config = self._config
        num_parts = config.gradient_accumulation
        part = next(parts_of(step, config.batch_size, num_parts, self._rank_info, skipped=skipped))
        return {name: tensor.to(self._rank_info.device) for name, tensor in self._task.prepare(part).items()}

    def step(self, step: int) -> None:
        """Take one step, then log, validate and write the checkpoint that are due after it."""
        _seed_all(self._job.seed, step + self.skipped, self._rank_info.rank)
        values = self._engine.step(step, self._loader.step())
        self._meter.add(values, self._engine.grad_norm, self._loader.wait_seconds)
        done, config = step + 1, self._config
        if done % config.log_interval == 0 or done == config.num_steps:
            self._handle_bad_steps(done)
            self._report(done)  # first: what shows both shows them of the same step
            self._emit(Metrics(self._meter.take(config, step, self._loader.wait_seconds), done))
        elif time.monotonic() - self._reported >= _REPORT_SECONDS:
            self._report(done)
        if config.validation_interval and done % config.validation_interval == 0 and done < config.num_steps:
            with self._meter.paused():
                self._handle_bad_steps(done)
                self._validate(done)
        if done % config.checkpoint_interval == 0 and done < config.num_steps:
            with self._meter.paused():
                self._handle_bad_steps(done)
                self._checkpoint(done)

    def _emit(self, event: Event) -> None:
        """Report something, of the first process alone; numbers stay in what is kept with the checkpoints."""
        if self._rank_info.rank:
            return
        note_step()  # a long validation takes none, and gets on; lines of the log say nothing of that
        if isinstance(event, Metrics):
            event = replace(event, time=self._time())
            self._logged.append(event.without_measures())
        elif isinstance(event, LoggedImage):
            event = replace(event, time=self._time())
        self._send(event)

    def _handle_bad_steps(self, done: int) -> None:
        """Do what the config says about bad steps since the last look, before anything of them is kept."""
        bad, in_a_row = self._engine.bad_steps.take()
        if not bad:
            return
        match self._config.bad_steps:
            case "roll_back":
                raise _RollBack
            case "skip" if in_a_row < self._config.most_bad_steps:
                self._emit(Metrics({"skipped_steps": float(bad)}, done))
            case "skip":
                raise _diverged(done, f"at {in_a_row} steps, one after another")
            case _:
                raise _diverged(done, "for the first time")

    def end(self, done: int) -> NoReturn:
        """Write a checkpoint of the steps taken so far, and raise EndRequested."""
        if done > self.first_step and done % self._config.checkpoint_interval:
            self._handle_bad_steps(done)
            self._checkpoint(done)
        self._writer.wait()
        raise EndRequested(f"training: ended on request after step {done}, of which a checkpoint is kept: run again")

    def finish(self) -> None:
        """Validate and save the trained model."""
        rates = self._meter.whole(self._loader.wait_seconds)
        steps, left_out = self._config.num_steps, self._left_out()
        if self._config.keeps_checkpoint and self.first_step < steps:
            self._checkpoint(steps)
        self._writer.wait()
        self.close()
        self._validate(steps)
        if self._rank_info.rank == 0 and self._ema_model is not None:
            kept = steps
            if self._config.best is not None:
                best = load_best(self._job.output, self._ema_model)
                kept = best.step
                self._metrics = {**best.metrics, "best_step": float(best.step)}
                self._measured = Measured(best.measures, best.protocols)
            with self._validating(self._ema_model, steps):
                self._task.examine(self._ema_model, kept)
            notes = (
                {"samples_per_second": f"{self._rank_info.describe()}, batch {self._config.batch_size}"}
                if rates
                else {}
            )
            notes |= self._history.remark(steps)
            failures = Counter((left_out | self._task.left_out).values())  # validation has read on rank 0 alone
            record = TrainedRecord(
                step=steps, metrics=only_finite(self._metrics) | rates, notes=notes, failures=dict(failures),
                **self._measured._asdict(),
            )  # fmt: skip
            with self._job.output.collecting():
                self._task.save(self._ema_model, self._job.output)
                write_log(self._job.output, TRAINING_LOG, self._log_so_far())
                record.write(self._job.output)

    def written(self) -> None:
        """Wait for the checkpoint that is being written, and raise what went wrong with it."""
        self._writer.wait()

    def close(self) -> None:
        """Stop preparing batches, and finish the checkpoint that is being written."""
        self._loader.close()
        self._writer.close()

    def _report(self, done: int, note: str = "") -> None:
        self._reported = time.monotonic()
        self._emit(Progress(done, self._config.num_steps, "steps", items=done * self._config.batch_size, note=note))

    def _checkpoint(self, done: int) -> None:
        checkpoint = Checkpoint(
            done, self._engine.state(), self._left_out(), self.skipped, self._log_so_far(),
            self._engine.num_updates(done),
        )  # fmt: skip
        if self._rank_info.rank == 0:
            self._writer.write(checkpoint)

    def _log_so_far(self) -> LoggedSteps:
        return LoggedSteps(tuple(self._logged), self._roll_backs)

    def _left_out(self) -> dict[str, FailureCause]:
        """Return the samples that any process has left out; every process must call it."""
        own = dict(self._task.left_out)  # a copy, as the loader's thread goes on
        gathered = [own] * self._rank_info.world_size
        if self._rank_info.world_size > 1:
            torch.distributed.all_gather_object(gathered, own)
        return {name: cause for one in gathered for name, cause in one.items()}

    def _validate(self, done: int) -> None:
        """Let the task validate the averaged weights, in a copy of the model that only rank 0 holds."""
        weights = self._engine.averaged_weights()
        if self._rank_info.rank == 0:
            ema_model = self._averaged_model(weights)
            with self._validating(ema_model, done):
                events = self._task.validate(ema_model, done)
            for event in events:
                if isinstance(event, Metrics):
                    self._metrics.update(event.values)
                    self._measured.measures.update(event.measures)
                    self._measured.protocols.update(event.protocols)
                    self._history.note(event.values, done)
                self._emit(event)
            if self._config.best is not None:
                found = BestRecord(step=done, metrics=self._metrics, **self._measured._asdict())
                keep_if_best(self._config.best, self._job.output, found, weights)

    @contextlib.contextmanager
    def _validating(self, model: nn.Module, done: int) -> Iterator[None]:
        """Compute as a validation does, and report meanwhile."""
        with torch.no_grad(), self._engine.autocast(), self._reporting(model, done):
            yield

    @contextlib.contextmanager
    def _reporting(self, model: nn.Module, done: int) -> Iterator[None]:
        """Report again and again while the model's parts are called: a validation that hangs reports nothing."""
        begun = time.monotonic()

        def report(*_: object) -> None:
            now = time.monotonic()
            if now - self._reported >= _REPORT_SECONDS:
                self._report(done, f"validating for {now - begun:.0f} s")

        hooks = [part.register_forward_hook(report) for part in model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _averaged_model(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        if self._ema_model is None:
            self._ema_model = self._task.build_model().to(self._rank_info.device).eval().requires_grad_(False)
        self._ema_model.load_state_dict(weights, strict=False)  # buffers that are not saved may be missing
        return self._ema_model


def _diverged(done: int, how: str) -> Diverged:
    return Diverged(
        f"training: a gradient was not finite, or jumped, {how}, before step {done}: expected finite ones: lower "
        "training.learning_rate, raise warmup_steps or use precision: float32, or set training.bad_steps to skip or "
        "roll_back; the newest checkpoint lies before it and is kept"
    )


def _load_weights(model: nn.Module, checkpoint: Checkpoint, output: Output) -> None:
    """Load a checkpoint's weights."""
    try:
        model.load_state_dict(checkpoint.state["weights"])
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ArtifactError(
            f"training: the checkpoint of step {checkpoint.step} in {output.uri} does not fit the model of the present "
            f"configuration and data ({reasons}): expected the same sizes: train on the data that it was started with, "
            "or delete the folder to start anew"
        ) from error


def _seed_all(*entropy: int) -> None:
    """Seed the global generators that a model may use."""
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    random.seed(int(state[1]))
