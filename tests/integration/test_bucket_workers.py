"""A decoder of several sizes on two processes: the same samples of the same bucket in each step, so the same losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_train import launch_with_ray_train
from cluster.training import launch_in_process
from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.buckets import BucketsRecord
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import KINDS
from stages.train_decoder.stage import run
from tests.bucketed_images import make_inputs

NETWORK = {"unshuffle": 8, "channels": [32], "layout_channels": 4, "layout_resolution": 4, "layout_hidden": 16}
NUM_STEPS = 8


pytestmark = pytest.mark.usefixtures("local_ray")


def config(**training: Any) -> Any:
    settings: dict[str, Any] = {"num_steps": NUM_STEPS, "batch_size": 4, "checkpoint_interval": 4, "log_interval": 1}
    settings |= {"precision": "float32", "warmup_steps": 2} | training
    return KINDS["pixel_diffusion"].section.model_validate(
        {
            "kind": "pixel_diffusion", "resolution": 32, "network": NETWORK, "training": settings,
            "samples": {"num_images": 6, "num_steps": 1}, "split": {"validation": 0.2},
            "buckets": {"step": 8, "size_conditioning": True}, "augmentation": {"crop": 0.1, "flip": 0.5},
        }
    )  # fmt: skip


def train(
    inputs: dict[str, Artifact], folder: Path, launch: Callable[..., Any], num_workers: int, **training: Any
) -> tuple[dict[int, float], Output]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch, Allocation(num_workers=num_workers))  # type: ignore[arg-type]
    output = Output(str(folder), "train_decoder", "c")
    run(config(**training), inputs, output, context)
    return {one.step: one.values["loss"] for one in events if isinstance(one, Metrics) and "loss" in one.values}, output


@pytest.mark.thorough
def test_two_processes_train_a_decoder_of_several_sizes_as_one_does(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    alone, one = train(inputs, tmp_path / "one", launch_in_process, 1)
    together, two = train(inputs, tmp_path / "two", launch_with_ray_train, 2, zero_stage=2)
    assert list(alone) == list(range(1, NUM_STEPS + 1))
    assert together == pytest.approx(alone, rel=1e-4)
    assert BucketsRecord.of(two) == BucketsRecord.of(one)
    assert len(BucketsRecord.of(two).images) > 2
    weights, found = load_model_state(one, "decoder"), load_model_state(two, "decoder")
    for name, weight in weights.items():  # where a gradient is near 0, Adam makes rounding as large as a step
        assert (found[name] - weight).norm() <= 1e-3 * weight.norm(), name
