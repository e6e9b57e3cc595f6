"""What a stage asks for becomes what it gets, or a sentence that says why it cannot."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from cluster.machines import Machines, Node
from pipeline.allocation import allocate, allocate_all, allocate_anew, allocate_beside, leave_room
from pipeline.config.loading import load_config
from pipeline.errors import UsageError
from stages.contract.stage import Allocation, Resources, StageConfig


def cpus(number: int) -> Machines:
    return Machines(num_cpus=number, num_gpus=0, node_cpus=number)


CONFIGS = Path(__file__).resolve().parents[3] / "configs"
LAPTOP = Machines(num_cpus=4, num_gpus=0, node_cpus=4)
GPU_CLUSTER = Machines(num_cpus=128, num_gpus=16, node_cpus=64)


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "embed_clip"
    uses_gpu: ClassVar[bool] = True


class LoadConfig(StageConfig):
    """Shards that no GPU helps with, such as a download's."""

    stage: ClassVar[str] = "download_shards"


class ModelsConfig(StageConfig):
    """Units whose workers hold models that may be large, such as a decoder's."""

    stage: ClassVar[str] = "generate"
    uses_gpu: ClassVar[bool] = True
    cpus_for_each_model: ClassVar[int] = 8


class TrainingConfig(StageConfig):
    stage: ClassVar[str] = "train_decoder"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"


class SingleConfig(StageConfig):
    stage: ClassVar[str] = "evaluate"
    work: ClassVar[Literal["shards", "training", "single"]] = "single"


@pytest.mark.parametrize(
    ("config", "machines", "allocation"),
    [
        (ShardsConfig(), LAPTOP, Allocation(4, 1, 0, grows=True)),
        (TrainingConfig(), LAPTOP, Allocation(1, 4, 0)),
        (SingleConfig(), LAPTOP, Allocation(1, 4, 0)),
        (ModelsConfig(), LAPTOP, Allocation(1, 4, 0, grows=True)),
        (ModelsConfig(), cpus(64), Allocation(8, 8, 0, grows=True)),
        (
            ModelsConfig(),
            Machines.of([Node(12), Node(12), Node(6)], []),
            Allocation(2, 8, 0, grows=True, room_at_first=2),
        ),
        (ModelsConfig(resources=Resources(num_workers=4)), LAPTOP, Allocation(4, 1, 0)),
        (ModelsConfig(), GPU_CLUSTER, Allocation(16, 8, 1, grows=True)),
        (ShardsConfig(), GPU_CLUSTER, Allocation(16, 8, 1, grows=True)),
        (TrainingConfig(), GPU_CLUSTER, Allocation(16, 8, 1)),
        (SingleConfig(), GPU_CLUSTER, Allocation(1, 8, 0)),
        (ShardsConfig(resources=Resources(gpus_per_worker=0.5)), GPU_CLUSTER, Allocation(32, 4, 0.5, grows=True)),
        (TrainingConfig(resources=Resources(num_workers=2)), LAPTOP, Allocation(2, 2, 0)),
        (TrainingConfig(resources=Resources(gpus_per_worker=0)), GPU_CLUSTER, Allocation(1, 64, 0)),
    ],
)
def test_open_numbers_are_resolved(config: StageConfig, machines: Machines, allocation: Allocation) -> None:
    assert allocate(config, machines) == allocation


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Resources(num_workers=3, cpus_per_worker=2), "3 workers x 2 CPUs asked for, and the machines have 4 CPUs"),
        (Resources(num_workers=5), "5 workers"),
        (Resources(gpus_per_worker=1), "the machines have 0 GPUs"),
    ],
)
def test_more_than_the_machines_have_is_refused(asked: Resources, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        allocate(TrainingConfig(resources=asked), LAPTOP)


def fraction(machines: Machines, source: Resources, downstream: Resources) -> tuple[int, tuple[int, int, int] | None]:
    """Return the workers of a download, and of what follows it: workers beside it, after it, and CPUs of each."""
    first, second = LoadConfig(resources=source), ShardsConfig(resources=downstream)
    wanted = allocate(second, machines)
    allocation = leave_room(first, allocate(first, machines), [(second, wanted)], machines)
    free = Machines(machines.num_cpus - allocation.cpus, machines.num_gpus, machines.node_cpus)
    beside = allocate_beside(second, wanted, free)
    if beside is None:
        return allocation.num_workers, None
    assert allocation.cpus + beside.cpus <= machines.num_cpus
    assert beside.gpus <= machines.num_gpus
    return allocation.num_workers, (beside.workers_at_first, beside.num_workers, beside.cpus_per_worker)


@pytest.mark.parametrize(
    ("machines", "source", "downstream", "shared"),
    [
        (cpus(1), {}, {}, (1, None)),
        (cpus(2), {}, {}, (1, (1, 2, 1))),
        (cpus(3), {}, {}, (2, (1, 3, 1))),
        (cpus(16), {}, {}, (15, (1, 16, 1))),
        (cpus(16), {"num_workers": 4}, {}, (4, (12, 16, 1))),  # what the user left free
        (cpus(16), {"num_workers": 16}, {}, (16, None)),
        (cpus(16), {}, {"num_workers": 6}, (10, (6, 6, 1))),
        (cpus(8), {}, {"num_workers": 8}, (4, (4, 8, 1))),
        (cpus(6), {}, {"cpus_per_worker": 4}, (2, (1, 1, 4))),
        (cpus(4), {}, {"cpus_per_worker": 4}, (4, None)),
        (Machines(1, 1, 1), {}, {}, (1, None)),
        (Machines(2, 1, 2), {}, {}, (1, (1, 1, 1))),
        (Machines(3, 1, 3), {}, {}, (2, (1, 1, 1))),
        (Machines(16, 1, 16), {}, {}, (8, (1, 1, 8))),
        (Machines(64, 8, 64), {}, {}, (32, (8, 8, 4))),
        (Machines(64, 8, 64), {"num_workers": 64}, {}, (64, None)),
        (Machines(64, 8, 64), {}, {"num_workers": 2, "cpus_per_worker": 8}, (48, (2, 2, 8))),
    ],
)
def test_a_streaming_stage_has_room_or_waits(
    machines: Machines, source: dict[str, int], downstream: dict[str, int], shared: object
) -> None:
    assert fraction(machines, Resources(**source), Resources(**downstream)) == shared


def test_a_second_streaming_stage_takes_no_room_that_its_source_needs() -> None:
    machines = cpus(2)
    wanted = allocate(ShardsConfig(), machines)
    pair = [(ShardsConfig(), wanted)] * 2
    assert leave_room(LoadConfig(), allocate(LoadConfig(), machines), pair, machines).num_workers == 1


MIXED = Machines.of([Node(0), Node(16), Node(16), Node(4, 1), Node(4, 1)], [])


def test_stages_without_gpu_leave_gpu_nodes_to_those_with_one() -> None:
    allocations = allocate_all([LoadConfig(), ShardsConfig()], MIXED)
    assert allocations["download_shards"] == Allocation(32, 1, 0, grows=True, room_at_first=32)
    assert allocations["embed_clip"] == Allocation(2, 4, 1, grows=True, room_at_first=2)
    left = Machines(MIXED.num_cpus - 32, MIXED.num_gpus, MIXED.node_cpus)
    beside = allocate_beside(ShardsConfig(), allocations["embed_clip"], left)
    assert beside is not None
    assert (beside.workers_at_first, beside.cpus_per_worker) == (2, 4)


def test_where_no_stage_uses_a_gpu_all_nodes_are_used() -> None:
    assert allocate_all([LoadConfig()], MIXED)["download_shards"].num_workers == 40


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_workers": 2, "cpus_per_worker": 8, "gpus_per_worker": 1}, "2 x 8 CPU .* have room for 0 such workers"),
        ({"num_workers": 3, "cpus_per_worker": 9, "gpus_per_worker": 0}, "3 x 9 CPU .* have room for 2 such workers"),
        ({"num_workers": 1, "cpus_per_worker": 17, "gpus_per_worker": 0}, r"have 40 CPUs \(16 on the largest\)"),
    ],
)
def test_what_fits_in_sum_but_on_no_node_is_refused(asked: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        allocate(TrainingConfig(resources=Resources(**asked)), MIXED)


def test_an_autoscaler_counts_with_its_declared_maximum() -> None:
    scaled = Machines.of([Node(0)], [Node(16, count=10), Node(8, 1, count=4)])
    assert allocate(TrainingConfig(), scaled) == Allocation(1, 8, 1)
    four = Resources(num_workers=4)
    assert allocate(TrainingConfig(resources=four), scaled).num_workers == 4
    with pytest.raises(UsageError, match=r"5 workers x 1 GPUs .* have 4 GPUs at most, with all that its autoscaler"):
        allocate(TrainingConfig(resources=Resources(num_workers=5)), scaled)
    assert allocate_all([LoadConfig(), TrainingConfig()], scaled)["download_shards"].num_workers == 8


@pytest.mark.parametrize(("num_gpus", "workers"), [(8, 8), (7, 4), (6, 4), (3, 2), (1, 1)])
def test_an_open_group_has_as_many_workers_as_the_batch_can_be_divided_over(num_gpus: int, workers: int) -> None:
    config = load_config(CONFIGS / "smoke.yaml", ["train_prior.training.batch_size=512"])
    assert config.train_prior is not None
    machines = Machines.of([Node(16, 1)] * num_gpus, [])
    assert allocate(config.train_prior, machines).num_workers == workers


def test_a_stage_that_was_to_use_gpus_waits_for_them_where_their_nodes_are_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, plain = TrainingConfig(), [Node(16)] * 2
    before = allocate_all([config, LoadConfig()], Machines.of([*plain, Node(16, 4)], []))
    left = allocate_anew([config, LoadConfig()], before, Machines.of(plain, []))
    assert left["train_decoder"] == before["train_decoder"]
    assert left["train_decoder"].gpus_per_worker == 1
    assert left["download_shards"].num_workers == 32
    assert caplog.messages == [
        "train_decoder: the nodes with GPUs are gone: it waits for one, and does not go on without"
    ]
    fewer = allocate_anew([config], before, Machines.of([*plain, Node(16, 2)], []))
    assert (fewer["train_decoder"].num_workers, fewer["train_decoder"].gpus_per_worker) == (2, 1)


def test_where_no_node_is_left_a_stage_keeps_one_worker_that_waits_for_room() -> None:
    before = allocate(LoadConfig(), Machines.of([Node(0), Node(16)], []))
    assert leave_room(LoadConfig(), before, [], Machines.of([Node(0)], [])).num_workers == 1


def test_the_room_by_which_workers_were_counted_goes_with_the_allocation() -> None:
    machines = Machines.of([Node(4)] * 2 + [Node(4, 1)], [])
    allocations = allocate_all([LoadConfig(), ShardsConfig()], machines)
    assert allocations["download_shards"].for_shards().room_at_first == 8
    assert allocations["embed_clip"].for_shards().room_at_first == 1
