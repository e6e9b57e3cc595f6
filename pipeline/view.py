"""Show a run on the terminal: bars with rate and time left, or, without a terminal, a line at intervals."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipeline.console import plain
from pipeline.plan import PlannedStage
from pipeline.progress import Pace
from pipeline.results import StageResult
from stages.contract.events import Event, Log, Metrics, Workers
from stages.contract.events import Progress as StageProgress
from stages.contract.secrets import redact
from stages.contract.stage import Allocation

LINE_SECONDS = 10.0


def make_bars(console: Console) -> Progress:
    """Return bars with rate and time left, which vanish at the end; without a terminal they are not shown."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file or pipe stays there
    )


class RunView:
    """Writes to standard error, so that standard output stays free for results."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, Line] = {}
        self._bars: dict[str, TaskID] = {}
        self._live = make_bars(console)

    def __enter__(self) -> "RunView":
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def report(self, text: str) -> None:
        """Print one line above the bars; further lines of the text are indented."""
        self._console.print(plain(redact(text)), soft_wrap=True)

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Open the stage's bar."""
        self._lines[stage.name] = Line()
        gpus = f", {allocation.gpus_per_worker:g} GPU" if allocation.gpus_per_worker else ""
        first, then = allocation.workers_at_first, allocation.num_workers
        growing = f", then {then}" if first != then else ""
        self.report(
            f"{stage.name}: started ({first} x {allocation.cpus_per_worker} CPU{gpus}{growing}; {stage.reason})"
        )
        self._close_bar(stage.name)  # of a start before this one
        self._bars[stage.name] = self._live.add_task(stage.name, total=None, note="")

    def event(self, name: str, event: Event) -> None:
        """Move the stage's bar, or say a line."""
        line = self._lines.setdefault(name, Line())  # what was made before may be found damaged, and then starts
        if isinstance(event, StageProgress):
            line.progress(event)
            self._live.update(self._bars[name], completed=event.done, total=event.total, note=line.note())
        elif isinstance(event, Workers):
            line.samples = sum(one.samples for one in event.machines)
            self._live.update(self._bars[name], note=line.note())
        elif isinstance(event, Metrics):
            line.values = dict(event.values)
        elif isinstance(event, Log) and event.level in {"WARNING", "ERROR", "CRITICAL"}:
            self.report(f"{name}: {event.level.lower()}: {event.message}")
        if not self._console.is_terminal and line.is_due():
            self.report(f"{name}: {line.text()}")

    def finished(self, result: StageResult) -> None:
        """Close the stage's bar."""
        self._close_bar(result.name)
        took = f" in {result.seconds:.1f} s" if result.seconds else ""
        self.report(f"{result.name}: {result.state}{took}{': ' + result.error if result.state == 'blocked' else ''}")

    def _close_bar(self, name: str) -> None:
        if name in self._bars:
            self._live.remove_task(self._bars.pop(name))


class Line:
    """What is known of a running stage or command, as one line of text."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._printed = time.monotonic()
        self.values: dict[str, float] = {}
        self.samples = 0  # samples that are done of the shards at hand

    def progress(self, event: StageProgress) -> None:
        """Take in a report."""
        self._pace.note(event)

    def note(self) -> str:
        """Return unit, rate and time left, and how far the units at hand are."""
        latest, rate, left = self._pace.latest, self._pace.rate, self._pace.seconds_left
        if latest is None:
            return ""
        words = [latest.unit]
        if rate is not None and left is not None:
            words += [f"{rate:.2f}/s", f"{left:.0f} s left"]
        if self.samples:
            words.append(f"{self.samples:,} samples under way")
        return f"{' · '.join(words)} {latest.note}".rstrip()

    def text(self) -> str:
        """Return the whole line and count it as printed."""
        self._printed = time.monotonic()
        latest = self._pace.latest
        done = f"{latest.done}/{latest.total} {self.note()}" if latest else "starting"
        values = ", ".join(f"{key}={value:.4g}" for key, value in list(self.values.items())[:3])
        return f"{done}; {values}" if values else done

    def is_due(self) -> bool:
        """Whether a line is to be printed again."""
        return time.monotonic() - self._printed >= LINE_SECONDS
