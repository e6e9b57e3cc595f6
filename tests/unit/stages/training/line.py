"""A task small enough for tests: fit a straight line, with noise that belongs to the sample."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.noise import seeded_noise
from stages.contract.errors import FailureCause
from stages.contract.events import Event, Metrics
from stages.formats.model_folders import save_model
from stages.storage.artifact import Output
from stages.training.measuring import mean_intervals, measure
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart, RankInfo

SHARDS = (5, 7, 4, 0, 8)


class Line(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Dropout(0.1), nn.Linear(hidden, 1))
        self.register_buffer("offset", torch.tensor(0.5))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        error = self.layers(batch["x"]).squeeze(1) + self.offset - batch["y"]
        return {"loss": error**2, "absolute": error.abs()}


class LineTask:
    def __init__(
        self,
        seed: int = 0,
        *,
        dropout: bool = True,
        fail_at: int | None = None,
        hidden: int = 8,
        pause: float = 0.0,
        validation_pause: float = 0.0,
        further: Mapping[str, float] | None = None,
    ) -> None:
        self.seed, self.dropout, self.fail_at, self.hidden = seed, dropout, fail_at, hidden
        self.pause = pause  # seconds for each batch
        self.validation_pause = validation_pause  # seconds before each of some calls of the model
        self.further = dict(further or {})  # metrics of each validation beside its own
        self.left_out: dict[str, FailureCause] = {}
        self.examined: list[tuple[int, dict[str, Tensor]]] = []  # steps and weights

    def setup(self, rank_info: RankInfo) -> None:
        self.order = SampleOrder(SHARDS, window_size=10, seed=self.seed)

    def build_model(self) -> nn.Module:
        model = Line(self.hidden)
        if not self.dropout:
            model.layers[2] = nn.Identity()
        return model

    def prepare(self, part: BatchPart) -> Batch:
        time.sleep(self.pause)
        if part.data_step == self.fail_at:
            raise ValueError(f"no data for step {part.data_step}")
        rows = torch.from_numpy(self.order.at(part.positions)).float()
        x = torch.cat([rows / 8, rows[:, :1] * rows[:, 1:] / 64], dim=1)
        noise = seeded_noise(sample_seeds(self.seed, part), (3,))
        return {"x": x + 0.1 * noise, "y": x.sum(1)}

    def has_direction(self, metric: str, step: int) -> bool:
        return True

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        assert not model.training
        for _ in range(6 if self.validation_pause else 0):
            time.sleep(self.validation_pause)
            model(self.prepare(BatchPart(0, 0, 8, 8)))
        batch = self.prepare(BatchPart(0, 0, 8, 8))
        losses = model(batch)["loss"]
        metrics = {"validation_loss": float(losses.mean()), **self.further}
        intervals = mean_intervals({"validation_loss": losses.numpy()}, self.seed)
        return [Metrics(metrics, step, *measure(metrics, intervals, len(losses), {"line": "straight"}))]

    def examine(self, model: nn.Module, step: int) -> None:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.examined.append((step, {name: tensor.clone() for name, tensor in model.state_dict().items()}))

    def save(self, model: nn.Module, output: Output) -> None:
        save_model(output, "line", model, {"width": 8})


class BadTask(LineTask):
    """Has samples without a finite loss, or with a huge one, at the positions of some steps."""

    def __init__(self, *, bad_at: int, factor: float = float("nan")) -> None:
        super().__init__(dropout=False)
        self.bad_at, self.factor = bad_at, factor

    def prepare(self, part: BatchPart) -> Batch:
        batch = dict(super().prepare(part))
        if part.data_step == self.bad_at:
            batch["y"] = batch["y"] * self.factor
        return batch
