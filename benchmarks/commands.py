"""How long the commands take that should be instant: ``python -m benchmarks.commands [RUNS]``.

The last row needs a finished quickstart in ./workspace; without one it is left out, and says so.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.config.loading import load_config
from pipeline.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "corgi --help": [sys.executable, "-m", "pipeline", "--help"],
    "corgi validate": [sys.executable, "-m", "pipeline", "validate", str(QUICKSTART)],
    "corgi plan": [sys.executable, "-m", "pipeline", "plan", str(QUICKSTART)],
}
SECOND_RUN = {"corgi quickstart, finished": [sys.executable, "-m", "pipeline", "quickstart"]}


def seconds(command: list[str]) -> float:
    """Time one process from start to end."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Time every command in turn, several times over, and print the spread."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    console = Console()
    finished = Experiment.open(load_config(QUICKSTART), str(QUICKSTART)).finished_record() is not None
    commands = COMMANDS | (SECOND_RUN if finished else {})
    times: dict[str, list[float]] = {name: [] for name in commands}
    for name, command in commands.items():
        seconds(command)  # once uncounted, so that files are in memory for all alike
        times[name] = []
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    table = Table(title=f"seconds over {runs} runs, in turn", title_justify="left")
    for heading in ("command", "min", "median", "max"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    for name, values in times.items():
        table.add_row(name, *(f"{f(values):.2f}" for f in (min, statistics.median, max)))
    console.print(table)
    if not finished:
        console.print("no finished quickstart in ./workspace: its second run was not timed")


if __name__ == "__main__":
    main()
