"""Artifacts, stores and sources behind a real server of S3's protocol."""

import contextlib
import json
import logging
import os

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import UsageError
from pipeline.store import Store
from stages.contract.errors import ArtifactError, InputFault
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.storage.artifact import COMPLETE, Output
from tests.factories import folder_digests, make_context, make_record, save_image, serve_folder
from tests.s3_server import serve_s3

SECRET = "test-secret-key"


@pytest.fixture(scope="module")
def server():
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    for name, value in (server.environment | {"CORGI_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    return server


def digests_at(s3, uri, folder):
    """Return the digests of all files at an address, by a copy of them that the stage had no part in."""
    s3.file_system().get(uri, str(folder), recursive=True)
    return folder_digests(folder)


def convert(source, uri, **options):
    config = DownloadShardsConfig(source=source, **({"rows_per_shard": 2, "image_size": 24, "retries": 0} | options))
    check(config)
    return config, run(config, {}, Output(uri, "download_shards", "f0"), make_context())


def test_an_object_appears_whole_or_not_at_all(s3):
    store = Store(s3.uri())
    store.open_for_writing()
    output = store.output("embed_clip", "f0")
    with contextlib.suppress(RuntimeError), output.writing("a/half.bin") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError("power cut")
    assert not output.exists("a/half.bin")
    large = np.random.default_rng(0).bytes(110_000_000)  # goes up in parts
    with output.writing("a/large.bin") as partial:
        partial.write_bytes(large)
    assert output.local("a/large.bin").read_bytes() == large
    info = s3.file_system().info(output.uri + "/a/large.bin")
    assert info["size"] == len(large)
    assert "-" in info["ETag"]  # the sign of an upload in parts


def test_what_another_process_wrote_is_seen_at_once(s3):
    output = Store(s3.uri()).output("train_prior", "f0")
    assert output.done_units() == {}
    record = json.dumps({"step": 4}).encode()
    s3.file_system().pipe_file(f"{output.uri}/units/model.json", record)  # not by this process's own file system
    assert output.done_units() == {"model": {"step": 4}}
    s3.file_system().pipe_file(f"{output.uri}/units/second.json", record)
    assert sorted(output.done_units()) == ["model", "second"]
    assert not output.is_complete
    s3.file_system().pipe_file(f"{output.uri}/{COMPLETE}", b"")
    assert output.is_complete


def test_a_file_that_was_made_anew_is_copied_anew(s3):
    store = Store(s3.uri())
    output = store.output("embed_clip", "f0")
    for content in (b"first", b"other"):
        output.write_bytes("a.bin", content)
        assert output.local("a.bin").read_bytes() == content
        assert store.artifact("embed_clip", "f0").local("a.bin").read_bytes() == content
    with pytest.raises(ArtifactError, match=r"no file 'none\.bin' \(looked in s3://"):
        output.local("none.bin")


def test_runs_and_records_are_found(s3):
    store = Store(s3.uri())
    for run_id, started in (("one-1", "2026-01-01"), ("two-2", "2026-01-02")):
        store.write_run(make_record(run_id, started=started))
    assert [record.run for record in store.runs()] == ["two-2", "one-1"]
    assert store.find_run("one").run == "one-1"
    assert store.read_run("none") is None
    store.write_run(make_record("two-2", started="2025-12-31"))  # what is kept of the first one is out of date
    assert [(record.run, record.started) for record in store.runs()] == [
        ("one-1", "2026-01-01"),
        ("two-2", "2025-12-31"),
    ]
    s3.file_system().rm(f"{store.uri}/runs/one-1", recursive=True)
    assert [record.run for record in store.runs()] == ["two-2"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index, name in enumerate(["a.png", "b/c.jpg", "b/[d] *.png", "e ñ 🎨.png", "f.png"]):
        save_image(folder / name, color=(50 * index, 10, 10))
    (folder / "a.txt").write_text("an image 🎨")
    (folder / "b/c.json").write_text(json.dumps({"captions": ["one", "two"]}))
    (folder / "f.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("metadata", [False, True])
def test_a_folder_of_images_gives_the_bytes_of_a_local_one(s3, images, tmp_path, metadata):
    if metadata:
        entries = {"file_name": ["a.png", "gone.png", "../secret.png"], "caption": ["first", "lost", "outside"]}
        pd.DataFrame(entries).to_csv(images / "metadata.csv", index=False)
    remote = s3.uri()
    s3.file_system().put(str(images), remote, recursive=True)
    _, expected = convert({"kind": "folder", "path": images}, str(tmp_path / "local"))
    config, found = convert({"kind": "folder", "path": remote}, f"{remote}-out")
    assert found.counts == expected.counts
    assert digests_at(s3, f"{remote}-out", tmp_path / "back") == folder_digests(tmp_path / "local")
    before = config.identity()
    s3.file_system().pipe_file(f"{remote}/a.png", b"changed")
    assert config.identity() != before


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "txt"])
def test_a_list_of_addresses_gives_the_rows_of_a_local_one(s3, tmp_path, kind):
    save_image(tmp_path / "served" / "a.png")
    with serve_folder(tmp_path / "served") as base:
        frame = pd.DataFrame({"url": [f"{base}/a.png", f"{base}/a.png", f"{base}/b.png"], "text": ["x", None, "z"]})
        path = tmp_path / f"list.{kind}"
        match kind:
            case "csv":
                frame.to_csv(path, index=False)
            case "parquet":
                frame.to_parquet(path)
            case "jsonl":
                frame.to_json(path, orient="records", lines=True)
            case "txt":
                path.write_text("\n".join(frame["url"]))
        remote = s3.uri()
        s3.file_system().put_file(str(path), f"{remote}/list.{kind}")
        columns = {} if kind == "txt" else {"caption_column": "text"}
        allowed = {"allowed_networks": ["127.0.0.1/32"]}
        for address in (path, f"{remote}/list.{kind}"):
            source = {"kind": "url_list", "path": address, **columns}
            convert(source, str(tmp_path / ("out" if address is path else "from-remote")), **allowed)
    assert folder_digests(tmp_path / "from-remote") == folder_digests(tmp_path / "out")


def test_shards_are_taken_from_the_store_and_put_into_it(s3, images, tmp_path):
    first = s3.uri()
    convert({"kind": "folder", "path": images}, first)
    convert({"kind": "folder", "path": images}, str(tmp_path / "first"))
    convert({"kind": "webdataset", "path": f"{first}/shards"}, f"{first}-second")
    convert({"kind": "webdataset", "path": tmp_path / "first" / "shards"}, str(tmp_path / "second"))
    assert digests_at(s3, f"{first}-second", tmp_path / "back") == folder_digests(tmp_path / "second")


@pytest.mark.parametrize("kind", ["folder", "webdataset", "url_list"])
def test_a_source_that_is_not_there_is_reported_before_anything_starts(s3, kind):
    for address in ("s3://no-such-bucket/data.csv", s3.uri() + "/none.csv"):
        config = DownloadShardsConfig(source={"kind": kind, "path": address})
        with pytest.raises(InputFault, match=r"(no such|no \.tar file|no \*)"):
            check(config)
    with pytest.raises(InputFault, match="there is no such bucket"):
        config.identity()


def test_a_missing_bucket_is_reported(s3):
    store = Store("s3://no-such-bucket/corgi")
    for poll in (store.check_format, store.open_for_writing):
        with pytest.raises(UsageError, match=r"there is no such bucket.*create the bucket"):
            poll()


def test_denied_access_is_reported_without_the_secret(s3, caplog):
    store = Store(s3.uri())
    caplog.set_level(logging.DEBUG, logger="stages")
    s3.report("reset-auth", "0")  # from now on, the server knows who may do what, and it knows nobody
    try:
        with pytest.raises(UsageError, match=r"store: s3://.*access is denied.*check the credentials") as caught:
            store.open_for_writing()
    finally:
        s3.report("reset-auth", "inf")
    assert SECRET not in str(caught.value) + caplog.text


def test_a_wrong_endpoint_is_reported(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = Store(s3.uri())
    monkeypatch.setattr("fsspec.config.conf", {"s3": {"skip_instance_cache": True}})
    with pytest.raises(UsageError, match=r"nothing responds at the endpoint.*AWS_ENDPOINT_URL"):
        store.check_format()


def test_no_credentials_are_reported(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("fsspec.config.conf", {"s3": {"skip_instance_cache": True}})
    with pytest.raises(UsageError, match=r"no credentials were found.*AWS_ACCESS_KEY_ID"):
        Store(s3.uri()).check_format()


def test_a_password_in_an_address_is_refused_and_not_reported():
    with pytest.raises(UsageError, match=r"s3://…@bucket/corgi: the address holds a user name") as caught:
        Store("s3://me:hidden@bucket/corgi").open_for_writing()
    assert "hidden" not in str(caught.value)


def test_records_hold_no_secret(s3, images):
    remote = s3.uri()
    config, _ = convert({"kind": "folder", "path": images}, remote)
    written = s3.contents(remote)
    assert written
    assert all(SECRET.encode() not in content for content in written.values())
    assert SECRET not in json.dumps(config.identity()) + str(Output(remote, "download_shards", "f0"))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
