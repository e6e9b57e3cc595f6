"""The one training loop: data, model, engine, steps, save. Stages start it by :mod:`stages.training.launch`."""

import random
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
from torch import nn

from stages.contract.errors import ArtifactError
from stages.contract.events import Event, Metrics, Progress
from stages.formats.checkpoints import checkpoint_steps, read_checkpoint, write_checkpoint
from stages.storage.artifact import Output
from stages.training.engine import Engine, join_group, leave_group
from stages.training.launch import MODEL_UNIT, TrainJob
from stages.training.loader import Loader, parts_of
from stages.training.meter import Meter
from stages.training.task import RankInfo

Emit = Callable[[Event], None]


def run_training(job: TrainJob, emit: Emit) -> None:
    """Train as one process of the group."""
    rank_info = join_group(use_gpu=job.use_gpu)
    try:
        with closing(_Run(job, rank_info, emit)) as run:
            for step in range(run.first_step, job.config.num_steps):
                run.step(step)
            run.finish()
    finally:
        leave_group()


class _Run:
    """What a training process holds while it trains."""

    def __init__(self, job: TrainJob, rank_info: RankInfo, emit: Emit) -> None:
        self._job, self._rank_info = job, rank_info
        self._task, self._config = job.make_task(), job.config
        self._emit: Emit = emit if rank_info.rank == 0 else _ignore_event
        self._task.setup(rank_info)
        self._start_engine()
        self._ema_model: nn.Module | None = None
        self._metrics: dict[str, float] = {}
        config = self._config
        self._meter = Meter(config.batch_size, rank_info)
        self._progress(self.first_step)
        steps = range(self.first_step, config.num_steps)
        self._loader = Loader(
            self._task, rank_info, batch_size=config.batch_size, num_parts=config.gradient_accumulation,
            steps=steps, prefetch=config.prefetch_batches,
        )  # fmt: skip

    def _start_engine(self) -> None:
        """Build the model and its engine, from the newest checkpoint if there is one."""
        job, rank_info = self._job, self._rank_info
        _seed_all(job.seed)
        model = self._task.build_model()
        done = checkpoint_steps(job.output)
        self.first_step = done[-1] if done else 0
        state = read_checkpoint(job.output, self.first_step) if done else None
        if state is not None:
            _load_weights(model, state["weights"], self.first_step, job.output)
        self._engine = Engine(model, self._config, rank_info)
        if state is not None:
            part = next(
                parts_of(self.first_step - 1, self._config.batch_size, self._config.gradient_accumulation, rank_info)
            )
            batch = {name: tensor.to(rank_info.device) for name, tensor in self._task.prepare(part).items()}
            self._engine.restore(state, self.first_step, batch)

    def step(self, step: int) -> None:
        """Take one step, then log, judge and keep what is due after it."""
        _seed_all(self._job.seed, step, self._rank_info.rank)
        values = self._engine.step(step, self._loader.step())
        self._meter.add(values, self._engine.grad_norm, self._loader.wait_seconds)
        done, config = step + 1, self._config
        if done % config.log_interval == 0 or done == config.num_steps:
            self._emit(Metrics(self._meter.take(config, step, self._loader.wait_seconds), done))
            self._progress(done)
        if config.validation_interval and done % config.validation_interval == 0 and done < config.num_steps:
            with self._meter.paused():
                self._validate(done)
        if done % config.checkpoint_interval == 0 and done < config.num_steps:
            with self._meter.paused():
                self._checkpoint(done)

    def finish(self) -> None:
        """Judge and save the trained model."""
        rates = self._meter.whole(self._loader.wait_seconds)
        self.close()
        steps = self._config.num_steps
        self._validate(steps)
        if self._rank_info.rank == 0 and self._ema_model is not None:
            self._task.save(self._ema_model, self._job.output)
            notes = {"samples_per_second": f"{self._rank_info.describe()}, batch {self._config.batch_size}"}
            record = {"step": steps, "metrics": self._metrics | rates, "notes": notes if rates else {}}
            self._job.output.finish_unit(MODEL_UNIT, record)

    def close(self) -> None:
        """Stop preparing batches."""
        self._loader.close()

    def _progress(self, done: int) -> None:
        self._emit(Progress(done, self._config.num_steps, "steps", items=done * self._config.batch_size))

    def _checkpoint(self, done: int) -> None:
        state = self._engine.state()
        if self._rank_info.rank == 0:
            write_checkpoint(self._job.output, done, state, self._config.max_checkpoints)

    def _validate(self, done: int) -> None:
        """Let the task judge the averaged weights, in a copy of the model that only rank 0 holds."""
        weights = self._engine.averaged_weights()
        if self._rank_info.rank == 0:
            ema_model = self._averaged_model(weights)
            with torch.no_grad(), self._engine.autocast():
                events = self._task.validate(ema_model, done)
            for event in events:
                if isinstance(event, Metrics):
                    self._metrics.update(event.values)
                self._emit(event)

    def _averaged_model(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        if self._ema_model is None:
            self._ema_model = self._task.build_model().to(self._rank_info.device).eval().requires_grad_(False)
        self._ema_model.load_state_dict(weights, strict=False)  # buffers that are not saved are not asked for either
        return self._ema_model


def _load_weights(model: nn.Module, weights: dict[str, torch.Tensor], step: int, output: Output) -> None:
    """Take a checkpoint's weights.

    Raises:
        ArtifactError: they are not of this model.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ArtifactError(
            f"training: the checkpoint of step {step} in {output.uri} does not fit the model that the configuration "
            f"and the data give now ({reasons}): expected the same sizes: train on the data that it was begun with, or "
            "delete the folder to begin anew"
        ) from error


def _ignore_event(event: Event) -> None:
    """Keep the other ranks quiet."""


def _seed_all(*entropy: int) -> None:
    """Seed the generators that a model may draw from."""
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    random.seed(int(state[1]))
