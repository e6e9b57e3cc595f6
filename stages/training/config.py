"""Settings of the training loop, the same for every train_ stage, and what the sections of those stages share."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from stages.contract.bounds import Count, CountOrZero, Seed
from stages.contract.config import ConfigModel, RuntimeOnly
from stages.contract.errors import InputFault, nearest
from stages.contract.events import LoggedSteps, Metrics, RolledBack
from stages.contract.secrets import redact_addresses
from stages.contract.stage import StageConfig
from stages.training.init_config import InitFrom

Precision = Literal["auto", "float32", "bfloat16"]
_MOST_BAD_STEPS = 20
Fraction = Annotated[float, Field(ge=0, lt=1)]


class BestConfig(ConfigModel):
    """Which validation's weights become the model."""

    metric: str = Field(description="a metric of the validation, by the name that the dashboard shows")
    mode: Literal["lowest", "highest"] = Field(description="which value of it is the best")


@dataclass(frozen=True)
class MetricNames:
    """What the validations of a stage report, by name: a pattern that all match, and some of them for people."""

    pattern: str
    examples: tuple[str, ...]

    def check(self, best: BestConfig | None) -> None:
        """Refuse, before a long training, to keep the best of what no validation reports.

        Raises:
            ValueError: no validation of the stage has a metric of this name.
        """
        if best is not None and not re.fullmatch(self.pattern, best.metric):
            raise ValueError(
                f"training.best.metric is {best.metric!r}{nearest(best.metric, self.examples)}: allowed is a metric of "
                f"the stage's validation, such as {', '.join(self.examples)}: give one of these"
            )


class TrainingConfig(ConfigModel):
    """How a model is trained: steps, optimiser, precision, checkpoints and logs.

    Fields marked RuntimeOnly (ZeRO stage, accumulation, intervals) change the result by rounding at most, so a run with
    other values resumes a half-trained model. A stage whose loss compares the samples of a batch with one another
    refuses accumulation (:func:`require_one_pass`).
    """

    num_steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="samples per optimiser step over all workers together")
    learning_rate: PositiveFloat = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: CountOrZero = Field(0, description="steps of linear rise from 0 to learning_rate")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine falls to 0")
    gradient_clip: PositiveFloat | None = Field(1.0, description="largest norm of the whole gradient; null: no limit")
    ema_decay: Fraction = Field(0.999, description="decay of the averaged weights, which are saved; 0: no average")
    bad_steps: Literal["stop", "skip", "roll_back"] = Field(
        "stop",
        description="what follows a step whose gradient is not finite, or jumps: stop, which keeps the newest "
        "checkpoint; skip leaves the step out (zero_stage 0 only); roll_back goes on from the newest checkpoint with "
        "the samples after the bad ones",
    )
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        None, description="a gradient's norm so many times the running mean of those before it counts as a jump"
    )
    best: BestConfig | None = Field(
        None, description="save the averaged weights of the best validation; null: those of the last step"
    )
    precision: Precision = Field("auto", description="of forward and backward; auto: bfloat16 where it is supported")

    zero_stage: Annotated[Literal[0, 1, 2, 3], RuntimeOnly()] = Field(
        0, description="what DeepSpeed ZeRO splits over workers: 1 optimiser, 2 also gradients, 3 also weights"
    )
    gradient_accumulation: Annotated[Count, RuntimeOnly()] = Field(
        1, description="forward and backward passes per step, for less memory"
    )
    compile: Annotated[bool, RuntimeOnly()] = Field(
        False, description="torch.compile the model: minutes at the start, faster steps; needs a C++ compiler"
    )
    checkpoint_interval: Annotated[Count, RuntimeOnly()] = Field(500, description="steps between checkpoints")
    max_checkpoints: Annotated[Count, RuntimeOnly()] = Field(
        2, description="how many of the newest checkpoints are kept"
    )
    keep_checkpoint: Annotated[bool, RuntimeOnly()] = Field(
        True, description="keep the last step's checkpoint beside the trained model, some four times its size, so that "
        "a training of more num_steps goes on from there; of a constant schedule alone",
    )  # fmt: skip
    async_checkpoints: Annotated[bool, RuntimeOnly()] = Field(
        True, description="write checkpoints while training goes on; takes memory for one more copy of the state"
    )
    log_interval: Annotated[Count, RuntimeOnly()] = Field(50, description="steps between metrics")
    validation_interval: Annotated[Count | None, RuntimeOnly()] = Field(
        None, description="steps between validations and sample images; null: at the end only"
    )
    prefetch_batches: Annotated[Count, RuntimeOnly()] = Field(4, description="batches prepared ahead of use")

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of the step (from 0): a linear rise over the warm-up, then constant or half a cosine to 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / (self.num_steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    @property
    def most_bad_steps(self) -> int:
        """Return how many bad steps one after another end a training that skips them: fewer where there are few."""
        return max(2, min(_MOST_BAD_STEPS, self.num_steps // 4))

    @property
    def can_go_on(self) -> bool:
        """Whether a training of more steps takes these steps first: rates depend on the step alone."""
        return self.schedule == "constant"

    @property
    def keeps_checkpoint(self) -> bool:
        """Whether the checkpoint of the last step stays beside the trained model."""
        return self.keep_checkpoint and self.can_go_on

    def ema_decay_at(self, step: int) -> float:
        """Return the decay after the step (from 0): lower at first, so that the random start is forgotten."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    @model_validator(mode="after")
    def _warmup_within_steps(self) -> "TrainingConfig":
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}: allowed is less than num_steps, which is {self.num_steps}; "
                "lower warmup_steps or raise num_steps"
            )
        return self

    @model_validator(mode="after")
    def _skips_without_zero(self) -> "TrainingConfig":
        if self.bad_steps == "skip" and self.zero_stage:
            raise ValueError(
                f"bad_steps is skip and zero_stage is {self.zero_stage}: a step can be skipped with zero_stage 0 only; "
                "set bad_steps to roll_back or stop, or zero_stage to 0"
            )
        return self


def require_one_pass(training: TrainingConfig, why: str) -> None:
    """Refuse to divide a worker's part of the batch into passes, where that would change what is learned.

    Raises:
        ValueError: it is divided; ``why`` says what needs the part whole.
    """
    if training.gradient_accumulation > 1:
        raise ValueError(
            f"training.gradient_accumulation is {training.gradient_accumulation} with {why}: allowed is 1: lower "
            "batch_size, or train on more workers"
        )


class PhasedTrainingConfig(TrainingConfig):
    """Two trainings of the same weights, one after the other, as one: a single row of steps and of checkpoints.

    Rate and averaging begin anew with the second, so that the saved average is of its weights; the optimiser's moments
    go on.
    """

    phases: tuple[TrainingConfig, TrainingConfig]

    @classmethod
    def of(cls, first: TrainingConfig, then: TrainingConfig) -> "PhasedTrainingConfig":
        """Return both as one; everything but steps, rate, warm-up and averaging is the second one's."""
        return cls(**dict(then) | {"num_steps": first.num_steps + then.num_steps, "phases": (first, then)})

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of the step in its own phase."""
        phase, own = self._phase(step)
        return phase.learning_rate_at(own)

    def ema_decay_at(self, step: int) -> float:
        """Return the decay after the step in its own phase."""
        phase, own = self._phase(step)
        return phase.ema_decay_at(own)

    def _phase(self, step: int) -> tuple[TrainingConfig, int]:
        first, then = self.phases
        return (first, step) if step < first.num_steps else (then, step - first.num_steps)


@dataclass(frozen=True)
class TrainingPart:
    """One training of a stage: its folder in the artifact, and the names and steps under which it is reported."""

    folder: str = ""
    prefix: str = ""
    first_step: int = 0

    def reported(self, event: Metrics) -> Metrics:
        """Return what the training logged as the stage reports it."""
        values = {f"{self.prefix}{name}": value for name, value in event.values.items()}
        return replace(event, values=values, step=self.first_step + event.step)

    def rolled_back(self, event: RolledBack) -> RolledBack:
        """Return a roll back of the training as the stage reports it."""
        return replace(event, to_step=self.first_step + event.to_step, from_step=self.first_step + event.from_step)

    def logged(self, event: LoggedSteps) -> LoggedSteps:
        """Return what the training had logged before as the stage reports it."""
        return LoggedSteps(tuple(map(self.reported, event.rows)), tuple(map(self.rolled_back, event.roll_backs)))


class LoopConfig(StageConfig):
    """What the sections of all stages share that train in the loop.

    Artifacts that differ in ``training.num_steps`` alone are of one recipe where the schedule allows it: the longer
    training goes on from a checkpoint of the shorter one.
    """

    uses_gpu: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    model_folder: ClassVar[str]
    """Where the trained model lies in the artifact."""
    metric_names: ClassVar[MetricNames]
    """What its validations report."""

    init_from: InitFrom | None = Field(
        None, description="whose weights training begins with: a run of the store (its id), the folder of a trained "
        "model (config.json and model.safetensors; open_clip's own for train_clip), or one in diffusers' format; null: "
        "random ones, or those that the kind names",
    )  # fmt: skip
    training: TrainingConfig

    @model_validator(mode="after")
    def _keeps_the_best_of_what_is_measured(self) -> "LoopConfig":
        self.metric_names.check(self.training.best)
        return self

    def check_best(self) -> None:
        """Refuse to begin a training that keeps the best by a loss which holds an adversary's terms.

        Not when the section is read: earlier versions took it, and what they have finished stays usable.

        Raises:
            InputFault: it would.
        """
        best = self.training.best
        if best is not None and not self.has_direction(best.metric, self.training.num_steps):
            others = [name for name in self.metric_names.examples if self.has_direction(name, self.training.num_steps)]
            instead = f"give {' or '.join(others)}, or leave" if others else "leave"
            raise InputFault(
                f"{self.stage}.training.best.metric is {best.metric!r}, which holds the terms of an adversary "
                "that learns too, and does not fall where the model becomes better: the first validation "
                f"might be kept: allowed is a metric that does: {instead} training.best out"
            )

    def usable_workers(self, room: int) -> int:
        """Return the largest number of workers over which the batch can be divided."""
        batch, passes = self.training.batch_size, self.training.gradient_accumulation
        return next((size for size in range(room, 1, -1) if batch % (size * passes) == 0), 1)

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell whether weights may be compared by the metric of a validation after so many steps.

        Not by a loss with an adversary's terms, which rises and falls with what the other side has learned.
        """
        return True

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; the weights to begin with count where there are any."""
        identity = super().identity()
        if self.init_from is None:
            del identity["init_from"]
        return identity

    @property
    def lineage(self) -> dict[str, str]:
        """Return what the summary says of the weights that training begins with."""
        return {} if self.init_from is None else {"init_from": redact_addresses(self.init_from)}

    @property
    def can_go_on(self) -> bool:
        """Whether a training of more steps can go on from this one."""
        return self.training.can_go_on

    @property
    def all_training(self) -> TrainingConfig:
        """The training, with what comes before it."""
        return self.training

    @property
    def parts(self) -> tuple[TrainingPart, ...]:
        """The trainings of the stage, one after another."""
        return (TrainingPart(),)

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """None: every step depends on all inputs."""
        return ()

    def recipe_identity(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the identity without the number of steps, where it changes none of the steps before."""
        if not self.can_go_on:
            return identity
        training = {name: value for name, value in identity["training"].items() if name != "num_steps"}
        return {**identity, "training": training}


class TrainStageConfig(LoopConfig):
    """The section of a stage that trains in the loop; it may have its own defaults for ``training``."""

    seed: Seed = 0

    @field_validator("training", mode="before")
    @classmethod
    def _fill_training(cls, given: object) -> object:
        """Keep the stage's own defaults for whatever a section under `training` leaves out."""
        field = cls.model_fields["training"]
        if field.is_required() or not isinstance(given, dict):
            return given
        return {**field.default.model_dump(), **given}
