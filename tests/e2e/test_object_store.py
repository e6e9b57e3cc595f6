"""The store on a real server of S3's protocol, under real Ray: killed, taken up again, the same bytes as on a disk."""

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import SMOKE, Finished, checksums, corgi, run_and_kill
from tests.s3_server import S3Server, serve_s3

DATA_STAGES = ("download_shards", "embed_clip", "fit_gaussians")
OTHERS = ("train_prior", "train_decoder", "generate", "evaluate")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with serve_s3() as server:
        yield server


def remote_checksums(s3: S3Server, uri: str, stage: str) -> dict[str, str]:
    (folder,) = s3.file_system().ls(f"{uri}/artifacts/{stage}", detail=False)
    return {name: hashlib.sha256(content).hexdigest() for name, content in s3.contents(f"s3://{folder}").items()}


def test_killed_and_resumed_on_s3_gives_the_bytes_of_a_local_run(
    s3: S3Server, unchanged: tuple[Path, Finished], tmp_path: Path
) -> None:
    uri, fs = s3.uri(), s3.file_system()
    options = f"storage.options={{s3: {{endpoint_url: '{s3.endpoint}'}}}}"
    words = [f"store={uri}", options, f"storage.cache={tmp_path / 'cache'}", *(f"{stage}=null" for stage in OTHERS)]
    environment = {name: value for name, value in s3.environment.items() if name != "AWS_ENDPOINT_URL"}
    environment["HOME"] = str(tmp_path)

    def half_downloaded() -> bool:
        time.sleep(0.1)
        return bool(fs.glob(f"{uri}/artifacts/download_shards/*/units/*.json"))

    assert run_and_kill(half_downloaded, *words, env=environment) == -signal.SIGKILL
    done = corgi("run", SMOKE, *words, "--json", env=environment)
    assert done.code == 0, done.err
    for stage in DATA_STAGES:
        assert remote_checksums(s3, uri, stage) == checksums(unchanged[0], stage)
    reported = done.out + done.err + "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    kept = b"".join(s3.contents(uri).values())
    assert "test-secret-key" not in reported
    assert b"test-secret-key" not in kept
