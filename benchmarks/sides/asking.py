"""How a benchmark starts a side and asks it to work."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.sides.serving import SideCase, Timing

ROOT = Path(__file__).resolve().parent.parent.parent


class Side:
    """One of the processes; a context manager that ends it."""

    def __init__(self, module: str, case: SideCase, folders: Sequence[Path] = ()) -> None:
        """Start ``python -m module`` and wait until it has done every work once; it imports from ``folders`` first."""
        paths = os.pathsep.join(str(folder) for folder in (*folders, ROOT))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, case.to_json()],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(case.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.constants = self._reply()

    def work(self, name: str) -> Timing:
        """Do one work now."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return Timing(**self._reply())

    def _reply(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks: {self.process.args!r} ended early: see its message above")
        found: dict[str, float] = json.loads(line)
        return found

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
