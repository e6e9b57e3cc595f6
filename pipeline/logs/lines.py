"""One line of a run's logs: what it holds, and how it gets from a process of the run to its driver."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator

from stages.contract.events import Event, Log

OURS = ("stages", "cluster", "models", "pipeline")
_MOST_MESSAGE = 8_000  # characters
_MOST_NAME = 80
_BURST, _PER_SECOND = 200, 10.0  # lines of one process: the driver takes in those of all


class ForwardLogs(logging.Handler):
    """Sends log records of this process to the driver, with the machine and the shard in hand."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        super().__init__(logging.INFO)
        self.shard = ""
        self._emit, self._node = emit, socket.gethostname()
        self._allowance, self._since, self._left_out = float(_BURST), time.monotonic(), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Forward our own records from INFO on, and others' from WARNING on."""
        if record.name.split(".")[0] not in OURS and record.levelno < logging.WARNING:
            return
        if not self._is_allowed():
            self._left_out += 1
            return
        if self._left_out:
            self._send(f"{self._left_out} lines of this process were left out: they came too fast", "WARNING", record)
            self._left_out = 0
        self._send(f"{record.name}: {record.getMessage()}", record.levelname, record)

    def _send(self, message: str, level: str, record: logging.LogRecord) -> None:
        attachment = str(getattr(record, "attachment", ""))
        message = message[:_MOST_MESSAGE]
        self._emit(Log(message, level, record.created, self._node, self.shard[:_MOST_NAME], attachment))

    def _is_allowed(self) -> bool:
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._since) * _PER_SECOND)
        self._since = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


@contextlib.contextmanager
def forwarding_logs(handler: ForwardLogs) -> Iterator[None]:
    """Forward this process's log records for the length of the block."""
    logging.getLogger().addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
