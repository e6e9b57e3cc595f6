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
