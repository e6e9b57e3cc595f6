"""A clock for how long others have been silent, of a process that may itself be held up."""

import time
from collections.abc import Callable


class AttentiveClock:
    """Counts the seconds in which this process attended to others.

    It is to be read often. A longer pause between two readings counts no more than ``most`` seconds: this process was
    held up then (a paused machine, a store that gave no reply), asked nobody and read nothing, so that nobody's silence
    says anything.
    """

    def __init__(self, most: float, source: Callable[[], float] = time.monotonic) -> None:
        self._most, self._source = most, source
        self._seconds, self._read = 0.0, source()

    def now(self) -> float:
        """Return the seconds so far."""
        read = self._source()
        self._seconds += min(read - self._read, self._most)
        self._read = read
        return self._seconds


class Countdown:
    """Seconds that may pass until something comes, of those in which this process attends to it.

    It is to be read every :attr:`TICK` seconds, so that whoever waits does so for :meth:`next_wait` at a time.
    """

    TICK = 1.0

    def __init__(self, seconds: float, source: Callable[[], float] = time.monotonic) -> None:
        self._clock = AttentiveClock(2 * self.TICK, source)
        self._end = self._clock.now() + seconds

    def left(self) -> float:
        """Return how many seconds are left, at least 0."""
        return max(0.0, self._end - self._clock.now())

    def next_wait(self) -> float:
        """Return for how long to wait until it is read again; 0: the time is over."""
        return min(self.left(), self.TICK)
