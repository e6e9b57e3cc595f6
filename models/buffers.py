"""Buffers that keep their precision when a network is cast to half precision."""

from collections.abc import Callable

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow it to another device, but never to another dtype.

    Training engines cast whole modules to bf16 or fp16. Statistics and noise schedules must not lose digits there:
    bf16 keeps three, and 1 - abar_t at small t needs more.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExactBuffers":
        exact = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in exact.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self
