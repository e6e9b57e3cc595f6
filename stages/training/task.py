"""What a train_ stage supplies to the training loop: its data, its model, and how to validate and save it.

The loop owns everything else: processes, batches, optimiser, precision, averaging, checkpoints, metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from stages.contract.errors import FailureCause
from stages.contract.events import Event
from stages.storage.artifact import Output

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RankInfo:
    """The rank of this training process, how many there are, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    def describe(self) -> str:
        """Return how many processes there are and what each computes on, for people."""
        if self.device.type == "cuda":
            return f"{self.world_size} x {torch.cuda.get_device_name(self.device)}"
        return f"{self.world_size} x {torch.get_num_threads()} CPU"


@dataclass(frozen=True)
class BatchPart:
    """A consecutive part of one step's global batch: samples ``first`` to ``first + count - 1`` of ``batch_size``.

    What it is made of is the same for any number of workers, so it may depend on the seed, on :attr:`positions` and on
    :attr:`step` only; :mod:`stages.training.order` and :mod:`stages.training.randomness` make it so.
    """

    step: int
    """The step of training that it is for, from 0: phases, intervals and rates go by it."""
    first: int
    count: int
    batch_size: int
    skipped: int = 0
    """Steps of samples that were passed over before it, as training rolled back."""

    @property
    def data_step(self) -> int:
        """The step whose samples it holds: ``step``, where training never rolled back. Samples go by it."""
        return self.step + self.skipped

    @property
    def positions(self) -> range:
        """Positions of the part's samples in the endless sequence of all samples."""
        start = self.data_step * self.batch_size + self.first
        return range(start, start + self.count)


class TrainTask(Protocol):
    """The part of training that differs from stage to stage.

    A task is pickled to every training process, so before :meth:`setup` it holds configuration and addresses
    only. All methods run in the training process; ``prepare`` runs in a background thread.
    """

    left_out: dict[str, FailureCause]
    """Samples that cannot be read and are left out, by name; checkpoints keep them, and the summary counts them."""

    def setup(self, rank_info: RankInfo) -> None:
        """Open the data; called once per process, before everything else."""

    def build_model(self) -> torch.nn.Module:
        """Make the model on the CPU in float32; the loop has seeded torch, so that weights are reproducible.

        ``model(batch)`` returns a dict of float tensors [count], one number per sample: "loss", which is averaged
        over the global batch and minimised, and any other quantities to log. It is a pure function of the weights
        and the batch: random numbers it needs (noise, times) are in the batch. What it takes from torch's
        global generator (dropout) is repeatable too, but depends on the number of workers.
        """

    def prepare(self, part: BatchPart) -> Batch:
        """Make the samples of the part, as CPU tensors with the sample as their first axis.

        Called with ascending steps, from one thread at a time; it may hold a bounded buffer.
        """

    def validate(self, model: torch.nn.Module, step: int) -> Sequence[Event]:
        """Validate the averaged weights; called on rank 0, in eval mode and without gradients.

        The returned :class:`~stages.contract.events.Metrics` and images carry ``step``; the metrics of the last
        validation also become the stage's metrics.
        """

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell whether weights may be compared by the metric of a validation after so many steps."""

    def examine(self, model: torch.nn.Module, step: int) -> None:
        """Find what :meth:`save` writes beside the weights that are kept: those of the validation after ``step`` steps.

        These are the last, or those of the best validation, which an earlier start of the training may have made, or
        the one that this training goes on from. Called once, as :meth:`validate` is, after all validations.
        """

    def save(self, model: torch.nn.Module, output: Output) -> None:
        """Write the trained model, with its averaged weights, to the output; called once, on rank 0, at the end."""
