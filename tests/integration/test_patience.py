"""A store and a source behind a real server of S3's protocol that goes away and comes back."""

import logging
import threading
import time

import pytest

from pipeline.store import Store
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import ShardRecord
from stages.storage.artifact import COMPLETE, Output
from stages.storage.filesystems import open_address
from stages.storage.patience import StorageAway, waiting_for
from tests.factories import make_context, make_record, save_image
from tests.s3_server import serve_s3

AWAY = 0.5  # seconds
SECOND = 1 / 60  # minutes


@pytest.fixture(scope="module")
def server():
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    variables = {"CORGI_CACHE": str(tmp_path / "cache"), "AWS_MAX_ATTEMPTS": "1"}
    for name, value in (server.environment | variables).items():
        monkeypatch.setenv(name, value)
    quick = {"endpoint_url": server.endpoint, "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setattr("fsspec.config.conf", {"s3": quick})
    return server


def back_soon(s3):
    """Stop the server, which starts again a moment later."""
    s3.order("stop")

    def come_back() -> None:
        time.sleep(AWAY)
        s3.order("start")

    thread = threading.Thread(target=come_back)
    thread.start()
    return thread


def test_reads_writes_and_listings_wait_for_the_store(s3, caplog):
    store = Store(s3.uri())
    output = store.output("embed_clip", "f0")
    output.write_bytes("a.bin", b"content")
    store.write_run(make_record("one-1"))
    calls = [
        (lambda: output.write_bytes("b.bin", b"other"), None),
        (lambda: output.local("a.bin").read_bytes(), b"content"),
        (lambda: output.exists(COMPLETE), False),
        (lambda: output.glob("*.bin"), ["a.bin", "b.bin"]),
        (lambda: [record.run for record in store.runs()], ["one-1"]),
    ]
    with waiting_for(20 * SECOND), caplog.at_level(logging.WARNING):
        for call, expected in calls:
            caplog.clear()
            back = back_soon(s3)
            assert call() == expected
            back.join()
            assert f"{store.uri}" in caplog.text
            assert "is away (" in caplog.text


def test_a_file_that_is_being_read_goes_on_where_it_was(s3):
    content = bytes(range(256)) * 80_000
    s3.file_system().pipe_file(uri := s3.uri(), content)
    fs, path = open_address(uri)
    with waiting_for(20 * SECOND), fs.open(path, "rb", block_size=1 << 20) as file:
        first = file.read(100)
        back = back_soon(s3)
        assert first + file.read() == content
    back.join()


def test_patience_that_runs_out_is_one_sentence(s3):
    output = Output(s3.uri(), "embed_clip", "f0")
    output.write_bytes("a.bin", b"content")
    began = time.monotonic()
    with s3.away(), waiting_for(1 * SECOND), pytest.raises(StorageAway) as caught:
        output.local("a.bin")
    assert str(caught.value).startswith(f"{output.uri}: was away for 0.0166667 minutes (")
    assert str(caught.value).endswith("run again; what was finished is kept")
    assert time.monotonic() - began < 20
    fs, path = open_address("s3://no-such-bucket/corgi")
    with waiting_for(1), pytest.raises(FileNotFoundError):  # it is there again, and does not have the bucket
        fs.ls(path)


def test_a_stage_whose_source_and_store_are_away_makes_the_same_shards(s3, tmp_path):
    for index in range(6):
        save_image(tmp_path / "images" / f"{index}.png", color=(40 * index, 10, 10))
    source = s3.uri()
    s3.file_system().put(str(tmp_path / "images"), source, recursive=True)
    options = {"rows_per_shard": 2, "image_size": 24, "retries": 0}
    config = DownloadShardsConfig(source={"kind": "folder", "path": source}, **options)
    output = Output(f"{source}-out", "download_shards", "f0")
    gone: list[threading.Thread] = []

    def go_away(event):
        if not gone and ShardRecord.done(output):
            gone.append(back_soon(s3))

    with waiting_for(20 * SECOND):
        context = make_context()
        found = run(config, {}, output, type(context)(go_away, context.map_shards, context.launch_training))
    gone[0].join()
    expected = run(config, {}, Output(str(tmp_path / "local"), "download_shards", "f0"), make_context())
    assert found.counts == expected.counts
    assert found.counts["images"] == 6
