"""Notice steps that go wrong, on the device: the host looks only where it waits for the device anyway."""

import torch
from torch import Tensor

_DECAY = 0.95
_LEAST_STEPS = 20  # good steps from which on the running mean means something


class BadSteps:
    """Counts steps whose gradient is not finite, or so many times as long as those before it.

    The running mean of the norms is bias-corrected as Adam's moments are (Kingma and Ba, arXiv 1412.6980, section 3);
    it is no part of a checkpoint and starts anew with the process.
    """

    def __init__(self, spike_factor: float | None, device: torch.device) -> None:
        self._factor = spike_factor
        self._mean, self._steps, self._count, self._row, self._longest = (
            torch.zeros((), device=device) for _ in range(5)
        )

    def note(self, grad_norm: Tensor | float) -> Tensor:
        """Take in a step's norm of the gradient, and return 1 where the step is bad, else 0: [], on the device."""
        norm = torch.as_tensor(grad_norm, dtype=torch.float32, device=self._mean.device)
        bad = ~norm.isfinite()
        if self._factor is not None:
            mean = self._mean / (1 - _DECAY**self._steps)  # 0 / 0 before the first step, which is never larger
            bad |= (self._steps >= _LEAST_STEPS) & (norm > self._factor * mean)
        self._mean = torch.where(bad, self._mean, _DECAY * self._mean + (1 - _DECAY) * norm)
        self._steps += ~bad
        self._count += bad
        self._row = torch.where(bad, self._row + 1, torch.zeros_like(self._row))
        self._longest = torch.maximum(self._longest, self._row)
        return bad.float()

    def take(self) -> tuple[int, int]:
        """Return how many steps were bad since the last call, and how many at most one after another, on any process.

        A row of bad steps may have begun before that call. Every process must call it.
        """
        found = torch.stack([self._count, self._longest])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        count, longest = map(int, found.tolist())
        self._count.zero_()
        self._longest.zero_()
        return count, longest
