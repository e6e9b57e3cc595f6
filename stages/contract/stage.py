"""The contract between the pipeline and a stage.

A stage is a package ``stages/<verb_noun>/`` with

- ``config.py``: one :class:`StageConfig` (or a union of them on ``kind``), free of torch and ray;
- ``stage.py``: ``run(config, inputs, output, context) -> StageSummary``, a plain callable;
- optionally ``check.py``: ``check(config) -> None``, which checks what the section names outside the store before
  anything starts, and raises InputFault;
- optionally ``contents.py``: ``contents(config, inputs) -> Contents``, which says what each unit is made from now, for
  stages whose units record that (:mod:`stages.streaming.staleness`);
- optionally ``inspect.py``: ``inspect(artifact, findings, context) -> None``, which adds what ``corgi inspect`` shows.

``run`` may be started again at any time over a half-written output: it looks at ``output.done_units()`` and goes on.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal
from typing import Protocol as Interface

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from cluster.mapping import Mapper, WorkerResources
from cluster.training import TrainLauncher
from stages.contract.bounds import LONGEST_WAIT
from stages.contract.config import ConfigModel, RuntimeOnly
from stages.contract.events import Event
from stages.contract.measures import Measure, Protocol
from stages.storage.artifact import Artifact, Output


class Resources(ConfigModel):
    """What a stage asks of the machines; never part of a fingerprint."""

    num_workers: PositiveInt | None = Field(
        None,
        description="parallel workers; none: one per cpus_per_worker CPUs for data stages; for training one on CPUs, "
        "and on GPUs one for each, as far as the batch can be divided over them",
    )
    min_workers: PositiveInt = Field(
        1, description="fewest workers that training goes on with where lost nodes leave no room for all"
    )
    wait_for_nodes: NonNegativeFloat = Field(
        60.0,
        le=LONGEST_WAIT,
        description="seconds to wait for lost nodes to come back before training goes on with fewer workers",
    )
    cpus_per_worker: PositiveInt | None = Field(None, description="CPUs per worker; none: the stage's own default")
    gpus_per_worker: NonNegativeFloat | Literal["auto"] = Field(
        "auto", description="GPUs per worker; auto: 1 where the machines have GPUs and the stage can use one, else 0"
    )
    heartbeat_timeout: PositiveFloat = Field(
        30.0,
        le=LONGEST_WAIT,
        description="seconds without a sign of life after which a worker of a data stage counts as lost, and one of "
        "training, or the process that drives a stage, is reported",
    )
    stage_timeout: PositiveFloat = Field(
        3600.0,
        le=LONGEST_WAIT,
        description="seconds at one shard, in training without a step or report, or in the process that drives a stage "
        "without running for a moment, after which a process counts as standing still, and is replaced",
    )
    max_tries: PositiveInt = Field(3, description="workers that a shard may take down before it is set aside")


class StageConfig(ConfigModel):
    """Base of a stage's section.

    ``stage`` is the identity string (package, YAML key, graph node, MLflow child run, artifact folder);
    ``code_version`` is raised whenever the same config and inputs would now give another result;
    ``work`` says how the stage spreads: over shards, over a training group, or not at all.
    """

    stage: ClassVar[str]
    code_version: ClassVar[int] = 1
    uses_gpu: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    """Whether its units are taken from earlier artifacts of the same recipe (:mod:`stages.contract.recipes`)."""
    work: ClassVar[Literal["shards", "training", "single"]] = "shards"

    cpus_for_each_model: ClassVar[int] = 1
    """CPUs of a worker without a GPU, by default: several where each holds models that may be large."""

    resources: Annotated[Resources, RuntimeOnly()] = Resources()

    def usable_workers(self, room: int) -> int:
        """Return how many workers it takes where there is room for so many, if their number is left open."""
        return room

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the stages whose artifacts this one reads."""
        raise NotImplementedError(f"{type(self).__name__} must declare its inputs")

    @property
    def streams_from(self) -> tuple[str, ...]:
        """Those inputs whose units it takes while they are still made (:mod:`stages.streaming.runner`)."""
        return ()

    @property
    def reads_pseudo_captions(self) -> bool:
        """Whether it also gets the artifact of caption_images where the experiment has one."""
        return False

    @property
    def reads_kept_samples(self) -> bool:
        """Whether it also gets the artifact of filter_samples where the experiment has one, though no embeddings."""
        return False

    def identity_with(self, inputs: Collection[str]) -> Mapping[str, Any]:
        """Return what its artifact's address holds in addition where it gets these inputs."""
        return {}

    @property
    def units_are_final(self) -> bool:
        """Whether a unit that has its record is never changed any more, so that others may follow this stage."""
        return False

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """Those inputs of which each unit makes one of its own: a recipe leaves them out."""
        return ("download_shards",)

    def recipe_identity(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of the identity every unit depends on, whatever it is made from."""
        return identity


@dataclass(frozen=True)
class Allocation:
    """The resources a running stage was given, with every ``auto`` resolved."""

    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    workers_beside: int | None = None  # workers as long as an input that it follows still runs; none: num_workers
    min_workers: int = 1
    wait_for_nodes: float = 60.0
    heartbeat_timeout: float = 30.0
    stage_timeout: float = 3600.0
    max_tries: int = 3
    grows: bool = False  # whether nodes that come while it runs get further workers
    room_at_first: int | None = None  # for its workers, on the nodes by which their number was chosen

    @property
    def workers_at_first(self) -> int:
        """How many workers it starts with."""
        return self.num_workers if self.workers_beside is None else self.workers_beside

    @property
    def cpus(self) -> int:
        """CPUs of all workers that it starts with."""
        return self.workers_at_first * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """GPUs of all workers that it starts with."""
        return self.workers_at_first * self.gpus_per_worker

    def for_shards(self, *, same_node: bool = False) -> WorkerResources:
        """Return them as what the workers of a map over shards hold."""
        return WorkerResources(
            self.num_workers,
            self.cpus_per_worker,
            self.gpus_per_worker,
            same_node,
            self.workers_beside,
            heartbeat_timeout=self.heartbeat_timeout,
            stage_timeout=self.stage_timeout,
            max_tries=self.max_tries,
            grows=self.grows and not same_node,
            room_at_first=self.room_at_first,
        )


InputState = Literal["running", "done", "failed"]


def _is_done(name: str) -> InputState:
    return "done"


@dataclass(frozen=True)
class StageContext:
    """What a stage may use of the outside: where to report, how to spread work, how to start a training group."""

    emit: Callable[[Event], None]
    map_shards: Mapper
    launch_training: TrainLauncher
    resources: Allocation = field(default_factory=Allocation)
    input_state: Callable[[str], InputState] = _is_done  # of an input, by its stage's name
    earlier: tuple[Artifact, ...] = ()
    """Artifacts of the same recipe, whose units may be taken over."""


@dataclass(frozen=True)
class StageSummary:
    """What a finished stage says of itself; it goes to the manifest, the report and the dashboard.

    ``items`` counts what the artifact is of in all (images, steps x batch, prompts), whichever start has made it;
    ``counts`` holds integers such as failures by cause; ``metrics`` holds measured figures; ``notes`` holds the words
    that figures need to be read right (a device, a network's name). ``measures`` holds interval, number and protocol of
    those metrics that have them, by the same names; ``protocols`` the protocols by their digests.
    """

    items: int
    item_name: str = "images"
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    protocols: Mapping[str, Protocol] = field(default_factory=dict)


class StageFunction(Interface):
    """The shape of every ``stages.<name>.stage.run``."""

    def __call__(
        self, config: Any, inputs: Mapping[str, Artifact], output: Output, context: StageContext
    ) -> StageSummary:
        """Make ``output`` from ``inputs``."""


def optional_module(package: str, name: str) -> ModuleType | None:
    """Return a module that a stage's package (or a kind's within it) may have, or None."""
    full = f"{package}.{name}"
    return None if find_spec(full) is None else import_module(full)
