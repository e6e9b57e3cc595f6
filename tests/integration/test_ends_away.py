"""A run that is ended while its store is away: it waits for seconds, says so, and goes on when it is there again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.s3_server import S3Server, serve_s3

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name: away
download_shards: {source: {kind: scenes, num_images: 4000, resolution: 16}, rows_per_shard: 20, encode_format: png}
cluster: {num_cpus: 1}
tracking: {register_model: false}
"""
MOST_SECONDS = 100
"""Until it is done with the store: three, and what a busy machine adds; `storage.patience` is 600. Then Ray ends."""


def await_unit(server: S3Server, uri: str, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 400
    while not server.file_system().glob(f"{uri.removeprefix('s3://')}/artifacts/download_shards/*/units/*.json"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no unit was made"
        time.sleep(0.2)


@pytest.mark.timeout(900)
def test_a_signal_ends_a_run_whose_store_is_away_within_seconds(tmp_path: Path) -> None:
    config = tmp_path / "away.yaml"
    config.write_text(EXPERIMENT)
    with serve_s3() as server:
        uri = server.uri()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        environment |= server.environment | {"AWS_MAX_ATTEMPTS": "1", "CORGI_CACHE": str(tmp_path / "cache")}
        environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "pipeline", "run", str(config), f"store={uri}"]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                await_unit(server, uri, process)
                processes = psutil.Process(process.pid).children(recursive=True)
                with server.away():
                    time.sleep(3.0)
                    begun = time.monotonic()
                    process.send_signal(signal.SIGTERM)
                    assert process.stdout is not None
                    text, seconds = "", float("inf")
                    for line in process.stdout:
                        text += line
                        if "the record of the run is left as it was" in line:
                            seconds = time.monotonic() - begun
                            break
                    text += process.communicate(timeout=250)[0]
            finally:
                process.kill()
        assert process.returncode == 143, text
        assert seconds < MOST_SECONDS, text
        assert "corgi: ended by SIGTERM; what was finished is kept" in text
        assert "Traceback" not in text
        assert not psutil.wait_procs(processes, timeout=60)[1]
