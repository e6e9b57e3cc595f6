"""What is still to be sent, in order: in memory while it is fresh, and in the store once it waits.

The files ``NNNNNN.jsonl`` hold the oldest lines first. Each is written whole, under a temporary name: a small file that
grows is written again, so that any file system will do. A file goes when all of its lines are sent. Whoever was killed
in between leaves lines that were sent already, which do no harm (:mod:`pipeline.outbox.operations`).

One thread puts lines, one takes them, and one calls :meth:`Spool.keep`, which alone writes to the store: one that is
away holds up neither of the others.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from stages.contract.errors import ArtifactError
from stages.storage.artifact import Output

SEGMENT_BYTES = 256 << 10
IN_MEMORY_BYTES = 8 << 20
"""Lines that are in the store leave memory beyond this."""
MOST_BYTES = 64 << 20
"""Lines beyond this are lost, where the store takes none either."""
PRIVATE = 0o600


@dataclass
class _Segment:
    """The lines of one file; None: they are in the store alone."""

    name: str
    lines: list[bytes] | None = field(default_factory=list)
    size: int = 0
    kept: int = 0  # so many of the lines are in the store
    has_file: bool = False  # there may be one, also where writing it failed: the reply may have been lost
    since: float = 0.0  # when the first of the others came

    def add(self, line: bytes) -> None:
        lines = self.lines = [] if self.lines is None else self.lines
        if len(lines) == self.kept:
            self.since = time.monotonic()
        lines.append(line)
        self.size += len(line)

    def is_due(self, seconds: float) -> bool:
        waiting = self.lines is not None and len(self.lines) > self.kept
        return waiting and time.monotonic() - self.since >= seconds


class Spool:
    """A queue of lines whose end is in memory, and whose rest is in a folder of the store."""

    def __init__(self, folder: Output) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        earlier = [name for name in folder.glob("*.jsonl") if name[:6].isdigit()]
        self._segments = deque(_Segment(name, None, has_file=True) for name in earlier)
        self._number = max((int(name[:6]) for name in earlier), default=0)
        self._taken = 0  # lines of the first segment that were sent
        self._done: list[str] = []
        self._aside = self._new("-aside")
        self._frozen = False
        self.lost = 0

    def _new(self, kind: str = "") -> _Segment:
        self._number += 1
        return _Segment(f"{self._number:06d}{kind}.jsonl")

    @property
    def where(self) -> str:
        """The file of the oldest line."""
        return f"{self._folder.uri}/{self._segments[0].name if self._segments else ''}"

    @property
    def is_empty(self) -> bool:
        """Whether all lines were sent, but for those that are set aside."""
        with self._lock:
            return not self._segments

    # ---- the thread that records

    def put(self, line: bytes) -> None:
        """Add a line; never waits for the store."""
        with self._lock:
            if self._in_memory() + len(line) > MOST_BYTES:
                self.lost += 1
                return
            last = self._segments[-1] if self._segments else None
            if last is None or last.lines is None or last.size >= SEGMENT_BYTES:
                last = self._new()
                self._segments.append(last)
            last.add(line)

    def _in_memory(self) -> int:
        return sum(one.size for one in (*self._segments, self._aside) if one.lines is not None)

    # ---- the thread that sends

    def head(self, most: int) -> list[bytes]:
        """Return the oldest lines, without taking them; none: all are sent."""
        while self._segments:
            first = self._segments[0]
            self._load(first)
            with self._lock:
                lines = (first.lines or [])[self._taken : self._taken + most]
                if lines:
                    return lines
                self._end_of(first)
        return []

    def _load(self, segment: _Segment) -> None:
        if segment.lines is not None:
            return
        lines = self._read(segment.name)
        with self._lock:
            segment.lines, segment.size, segment.kept = lines, sum(map(len, lines)), len(lines)

    def _read(self, name: str) -> list[bytes]:
        try:
            with self._folder.open(name) as file:
                return file.read().splitlines(keepends=True)
        except ArtifactError:  # removed by hand
            return []

    def sent(self, count: int) -> None:
        """Take the oldest lines off the queue."""
        with self._lock:
            if self._frozen:  # a call came back after the end: what the store holds by now may be sent again
                return
            first = self._segments[0]
            self._taken += count
            if self._taken >= len(first.lines or ()):
                self._end_of(first)

    def _end_of(self, first: _Segment) -> None:
        self._segments.popleft()
        self._taken = 0
        if first.has_file:
            self._done.append(first.name)

    def set_aside(self) -> None:
        """Let the oldest line wait until :meth:`requeue`, or for the next process."""
        with self._lock:
            (line,) = self.head(1)
            self._aside.add(line)
            self.sent(1)

    def requeue(self) -> None:
        """Put what was set aside back, behind the others."""
        with self._lock:
            if self._aside.lines:
                self._segments.append(self._aside)
                self._aside = self._new("-aside")

    # ---- the thread that keeps

    def keep(self, seconds: float) -> None:
        """Write what has waited for so long to the store, and remove there what is sent."""
        with self._writing:  # an older state must not replace a newer one
            for segment in self._due(seconds):
                self._write(segment)
            while self._done:  # which grows at its end meanwhile
                self._folder.remove(self._done[0])
                del self._done[0]  # not before: where the store is away, the next call removes it
        self._trim()

    def _due(self, seconds: float) -> list[_Segment]:
        with self._lock:
            return [one for one in (*self._segments, self._aside) if one.is_due(seconds)]

    def _waits(self, segment: _Segment) -> bool:
        return any(one is segment for one in (*self._segments, self._aside))

    def _write(self, segment: _Segment) -> None:
        with self._lock:
            if not self._waits(segment):  # sent since it was found due: its file would stay for ever
                return
            lines, before = list(segment.lines or ()), segment.kept
            segment.kept, segment.has_file = len(lines), True
        try:
            self._folder.write_bytes(segment.name, b"".join(lines), mode=PRIVATE)
        except BaseException:
            with self._lock:
                segment.kept = before
            raise

    def _trim(self) -> None:
        with self._lock:
            for segment in list(self._segments)[1:-1]:
                if self._in_memory() <= IN_MEMORY_BYTES:
                    return
                if segment.lines is not None and segment.kept == len(segment.lines):
                    segment.lines, segment.size = None, 0

    def close(self) -> int:
        """Write all that is not sent to the store, without what is, and return how many lines that is."""
        with self._writing, self._lock:
            self._frozen = True
            first = self._segments[0] if self._segments else None
            if first is not None and first.lines is not None and self._taken:
                first.lines, first.kept, self._taken = first.lines[self._taken :], 0, 0
        self.keep(0.0)
        return self.count()

    def count(self) -> int:
        """Return how many lines are not sent."""
        with self._lock:
            waiting = [*self._segments, self._aside]
        held = (self._read(one.name) if one.lines is None else one.lines for one in waiting)
        return sum(map(len, held)) - self._taken
