"""Show how far a generation is: a bar with rate and time left, or, without a terminal, a line at intervals."""

import threading
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from pipeline.console import plain
from pipeline.view import LINE_SECONDS, Line, make_bars
from stages.contract.events import Progress
from stages.contract.secrets import redact

_NAME = "generate"


class GenerationView:
    """Writes to a console, that of standard error; lines come also while no image is done, as a batch may take long."""

    def __init__(self, console: Console, *, line_seconds: float = LINE_SECONDS) -> None:
        self._console, self._line_seconds = console, line_seconds
        self._line, self._bars = Line(), make_bars(console)
        self._bar: TaskID | None = None
        self._total = self._done = 0
        self._has_ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, name="lines of generate", daemon=True)

    def __enter__(self) -> "GenerationView":
        self._bars.start()
        if not self._console.is_terminal:
            self._lines.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._has_ended.set()
        if self._lines.is_alive():
            self._lines.join()
        self._bars.stop()

    def report(self, text: str) -> None:
        """Print one line, above the bar."""
        self._console.print(plain(redact(text)), soft_wrap=True)

    def loading(self, name: str) -> None:
        """Say whose models are loaded, which may take a minute."""
        self.report(f"{_NAME}: loading the models of {name}")

    def expect(self, total: int) -> None:
        """Begin to count so many images."""
        self._total = total
        self._bar = self._bars.add_task(_NAME, total=total, note="")
        self._show()

    def count(self) -> None:
        """Count one more image that is written."""
        self._done += 1
        self._show()

    def _show(self) -> None:
        self._line.progress(Progress(self._done, self._total, "images"))
        if self._bar is not None:
            self._bars.update(self._bar, completed=self._done, note=self._line.note())

    def _print_lines(self) -> None:
        while not self._has_ended.wait(self._line_seconds):
            self.report(f"{_NAME}: {self._line.text()}")
