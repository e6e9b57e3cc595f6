"""Training with torch.compile: compiled for real, by the C++ compiler of this machine, and to the same model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from tests.integration.processes import launch_in_forks
from tests.unit.stages.training.line import LineTask


class CountingTask(LineTask):
    """Also reports how many graphs have been compiled in its process."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        return [*super().validate(model, step), Metrics({"graphs": float(graphs)}, step)]


def make_task() -> CountingTask:
    return CountingTask(dropout=False)


def run(folder: Path, *, compiled: bool) -> dict[str, torch.Tensor]:
    config = TrainingConfig(
        num_steps=4, batch_size=8, learning_rate=0.02, precision="float32", log_interval=1, compile=compiled
    )
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_forks, Allocation())  # type: ignore[arg-type]
    output = Output(str(folder), "train_line", "f0")
    result = train(make_task, config, seed=3, output=output, context=context)
    assert (result.metrics["graphs"] > 0) == compiled
    return load_model_state(output, "line")


def test_a_compiled_model_trains_alike(tmp_path: Path) -> None:
    plain, compiled = run(tmp_path / "plain", compiled=False), run(tmp_path / "compiled", compiled=True)
    assert plain.keys() == compiled.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-4, atol=1e-5)
