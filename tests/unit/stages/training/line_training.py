"""How tests train a line: with which settings, and what comes of it."""

from pathlib import Path
from typing import Any

import torch

from cluster.training import launch_in_process
from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext, StageSummary
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from tests.unit.stages.training.line import LineTask


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{"num_steps": 12, "batch_size": 8, "learning_rate": 0.02, "log_interval": 1, "precision": "float32",
           "warmup_steps": 2, "schedule": "cosine", "ema_decay": 0.9, "checkpoint_interval": 4} | changes
    )  # fmt: skip


def run(folder: Path, settings: TrainingConfig, task: LineTask | None = None) -> tuple[StageSummary, list[Event]]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    result = train(lambda: task or LineTask(), settings, seed=3, output=output_of(folder), context=context)
    return result, events


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_line", "f0")


def losses(events: list[Event]) -> dict[int, float]:
    return {e.step: e.values["loss"] for e in events if isinstance(e, Metrics) and "loss" in e.values}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model_state(output_of(folder), "line")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)
