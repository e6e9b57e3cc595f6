"""How far a fit is, where a pass or what is between two takes long."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stages.contract.events import Event, Progress

_REPORT_SECONDS = 2.0  # at most between two reports


@dataclass
class _Now:
    """Is due now and then."""

    _reported: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._reported < _REPORT_SECONDS:
            return False
        self._reported = now
        return True


@dataclass
class WithinPass:
    """Reports how far a pass over all embeddings is."""

    passes: int
    total: int
    emit: Callable[[Event], None]
    _now: _Now = field(default_factory=_Now)

    def __call__(self, step: int, rows: int) -> None:
        """Say that so many rows of the pass after ``step`` others are done."""
        if self._now.is_due():
            note = f"{rows:,} of {self.total:,} embeddings"
            self.emit(Progress(step, self.passes, "passes", items=step * self.total + rows, note=note))


@dataclass
class BetweenPasses:
    """Reports how far the search for means on the sample is; how often that goes over it is not known before."""

    passes: int
    total: int
    most_in_sample: int
    emit: Callable[[Event], None]
    step: int = 0
    """Passes over all embeddings so far."""
    _rows: int = 0
    _now: _Now = field(default_factory=_Now)

    def rows(self, count: int) -> None:
        """Say that so many rows more of the sample were read."""
        self._rows += count
        if self._now.is_due():
            sample = min(self.most_in_sample, self.total)
            note = f"finds means: {self._rows / sample:.1f} times over a sample of {sample:,}"
            self.emit(Progress(self.step, self.passes, "passes", items=self.step * self.total, note=note))
