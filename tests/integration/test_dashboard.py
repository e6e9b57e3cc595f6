"""`corgi dashboard` as a command."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from pipeline.store import Store
from tests.ports import free_port


def test_the_dashboard_of_a_store_without_runs_opens(tmp_path: Path) -> None:
    Store(str(tmp_path)).open_for_writing()
    command = [sys.executable, "-m", "pipeline", "dashboard", "--store", str(tmp_path), "--port", str(free_port())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("dashboard: http://")
            address = line.split()[1]
            with urllib.request.urlopen(f"{address}api/runs", timeout=30) as reply:
                assert b'"runs":[]' in reply.read()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
