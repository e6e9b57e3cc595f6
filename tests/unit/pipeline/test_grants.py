"""What a stage asks for becomes what it gets, or a sentence that says why it cannot."""

from typing import ClassVar, Literal

import pytest

from cluster.session import Machines
from pipeline.errors import UsageError
from pipeline.grants import grant
from stages.contract import GrantedResources, Resources, StageConfig

LAPTOP = Machines(num_cpus=4, num_gpus=0, node_cpus=4)
GPU_CLUSTER = Machines(num_cpus=128, num_gpus=16, node_cpus=64)


class ShardsConfig(StageConfig):
    stage: ClassVar[str] = "embed_clip"
    uses_gpu: ClassVar[bool] = True


class TrainingConfig(StageConfig):
    stage: ClassVar[str] = "train_decoder"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"


class SingleConfig(StageConfig):
    stage: ClassVar[str] = "evaluate"
    work: ClassVar[Literal["shards", "training", "single"]] = "single"


@pytest.mark.parametrize(
    ("config", "machines", "granted"),
    [
        (ShardsConfig(), LAPTOP, GrantedResources(4, 1, 0)),
        (TrainingConfig(), LAPTOP, GrantedResources(1, 4, 0)),
        (SingleConfig(), LAPTOP, GrantedResources(1, 4, 0)),
        (ShardsConfig(), GPU_CLUSTER, GrantedResources(16, 8, 1)),
        (TrainingConfig(), GPU_CLUSTER, GrantedResources(16, 8, 1)),
        (SingleConfig(), GPU_CLUSTER, GrantedResources(1, 8, 0)),
        (ShardsConfig(resources=Resources(gpus_per_worker=0.5)), GPU_CLUSTER, GrantedResources(32, 4, 0.5)),
        (TrainingConfig(resources=Resources(num_workers=2)), LAPTOP, GrantedResources(2, 2, 0)),
        (TrainingConfig(resources=Resources(gpus_per_worker=0)), GPU_CLUSTER, GrantedResources(1, 64, 0)),
    ],
)
def test_open_numbers_are_resolved(config: StageConfig, machines: Machines, granted: GrantedResources) -> None:
    assert grant(config, machines) == granted


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
        grant(TrainingConfig(resources=asked), LAPTOP)
