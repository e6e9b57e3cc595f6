"""The download stage against a server that does everything wrong: it ends by itself, counts all, loses nothing else."""

import collections
import contextlib
import gzip
import http.server
import io
import itertools
import json
import logging
import socket
import struct
import threading
import time
import zlib

import pandas as pd
import pytest
from PIL import Image

from stages.contract.errors import YieldTooLow
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import folder_digests, make_context

SECRET = "s3cr3t"
LONG = "🎨ñ" * 250_000  # more than a megabyte


def encode(kind, color=(200, 30, 40), size=(48, 32)):
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, kind) if color is None else Image.new(
        "RGB", size, color
    ).save(buffer, kind)
    return buffer.getvalue()


def huge_png():
    """An image of 50,000 x 50,000 pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.seen: collections.Counter[str] = collections.Counter()
        self.stopped = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        self.server.seen[path] += 1
        name = path.strip("/").split("/")[0]
        with contextlib.suppress(OSError):
            getattr(self, f"serve_{name}", self.serve_missing)()

    def respond(self, content, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Type", "image/jpeg")
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def serve_good(self):
        color = (10 * int(self.path.split("/")[2].split(".")[0]), 90, 30)
        content = encode("PNG", color)
        self.respond(content, length=len(content))

    def serve_missing(self):
        self.respond(b"", 404)

    def serve_flaky(self):
        if self.server.seen[self.path] == 1:
            self.respond(b"", 500)
        else:
            self.respond(encode("PNG", (1, 2, 3)))

    def serve_endless(self):
        self.respond(b"")
        while not self.server.stopped.is_set():
            self.wfile.write(b"\0" * 65536)

    def drip(self):
        while not self.server.stopped.wait(0.2):
            self.wfile.write(b"x")

    def serve_drip(self):
        self.respond(b"", length=10_000)
        self.drip()

    def serve_dripheader(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        self.drip()

    def serve_silent(self):
        self.server.stopped.wait(20)

    def serve_loop(self):
        self.respond(b"", 302, Location="/loop/" + self.path.split("/")[2] + "x")

    def serve_private(self):
        self.respond(b"", 302, Location=f"http://127.0.0.2:{self.server.server_port}/good/1.png")

    def serve_moved(self):
        self.respond(b"", 301, Location="../good/7.png")

    def serve_file(self):
        self.respond(b"", 302, Location="file:///etc/hostname")

    def serve_html(self):
        self.respond(b"<html><body>no image</body></html>")

    def serve_truncated(self):
        content = encode("JPEG", None, (200, 200))
        self.respond(content[: len(content) // 2])

    def serve_bomb(self):
        self.respond(huge_png())

    def serve_gzip(self):
        self.respond(gzip.compress(b"\0" * 10_000_000), Content_Encoding="gzip")

    def serve_short(self):
        self.respond(encode("PNG"), length=100_000)

    def serve_big(self):
        self.respond(b"", length=10**12)

    def serve_robots(self):
        self.respond(encode("PNG"), X_Robots_Tag="noai")

    def serve_login(self):
        known = self.headers.get("Authorization") == "Basic dXNlcjpzM2NyM3Q="  # user:s3cr3t
        self.respond(encode("PNG", (9, 9, 9)) if known else b"", 200 if known else 401)

    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def serve_hostile():
    with Server(Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server, f"127.0.0.1:{server.server_port}"
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


def make_list(host):
    """Return (address, caption, expected cause or None)."""
    base = f"http://{host}"
    port = host.rpartition(":")[2]
    good = [(f"{base}/good/{index}.png", f"image {index} ñ 🎨", None) for index in range(12)]
    bad = [
        (f"{base}/missing", None, "http_404"),
        (f"{base}/endless", None, "file_too_large"),
        (f"{base}/drip", None, "timeout"),
        (f"{base}/dripheader", None, "timeout"),
        (f"{base}/silent", None, "timeout"),
        (f"{base}/loop/x", None, "too_many_redirects"),
        (f"{base}/private", None, "private_address"),
        (f"{base}/file", None, "invalid_url"),
        (f"{base}/html", None, "unsupported_format"),
        (f"{base}/truncated", None, "truncated_image"),
        (f"{base}/bomb", None, "image_too_large"),
        (f"{base}/gzip", None, "content_encoding"),
        (f"{base}/short", None, "connection_lost"),
        (f"{base}/big", None, "file_too_large"),
        (f"{base}/robots", None, "disallowed"),
        (f"http://user:wrong{SECRET}@{host}/login/x", None, "http_401"),
        (f"http://[::1]:{port}/good/1.png", None, "private_address"),
        (f"http://[::ffff:127.0.0.2]:{port}/good/1.png", None, "private_address"),
        (f"http://2130706434:{port}/good/1.png", None, "private_address"),  # 127.0.0.2
        (f"http://0x7f000002:{port}/good/1.png", None, "private_address"),
        (f"http://0177.0.0.2:{port}/good/1.png", None, "private_address"),
        (f"http://user:{SECRET}@:99999/x", None, "invalid_url"),
        (f"http://user:{SECRET}@127.0.0.1:port/x", None, "invalid_url"),
    ]
    fine = [
        (f"{base}/flaky", "served at the second attempt", None),
        (f"{base}/moved/x", "moved", None),
        (f"http://user:{SECRET}@{host}/login/y", "behind a password", None),
        (f"{base}/good/3.png?ñ=🎨 x", LONG, None),  # the bytes of another address
        (f"{base}/good/5.png", "again", None),  # the bytes of another address
    ]
    return list(itertools.chain(*itertools.zip_longest(good, bad, fine)))


def make_config(path, **options):
    defaults = {
        "rows_per_shard": 17,
        "image_size": 24,
        "encode_format": "png",
        "timeout": 8.0,  # of a busy machine
        "max_seconds": 12.0,
        "max_bytes": 3_000_000,
        "retry_wait": 0.05,
        "min_yield": 0.1,
        "allowed_networks": ["127.0.0.1"],
        "source": {"kind": "url_list", "path": path, "caption_column": "text"},
    }
    return DownloadShardsConfig(**(defaults | options))


def download(config, folder):
    return run(config, {}, Output(str(folder), "download_shards", "test"), make_context())


def read_rows(folder):
    return pd.concat(pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet")))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with serve_hostile() as (server, host):
        entries = [entry for entry in make_list(host) if entry is not None]
        pd.DataFrame(entries, columns=["url", "text", "expected"]).to_parquet(folder / "list.parquet")
        yield folder, entries, server


@pytest.fixture(scope="module")
def downloaded(hostile):
    folder, entries, server = hostile
    start = time.monotonic()
    summary = download(make_config(folder / "list.parquet"), folder / "one")
    return folder / "one", entries, summary, time.monotonic() - start, collections.Counter(server.seen)


def test_it_ends_by_itself_and_the_counts_are_exact(downloaded):
    _, entries, summary, seconds, _ = downloaded
    expected = collections.Counter(f"failed_{cause}" for _, _, cause in entries if cause is not None)
    good = [entry for entry in entries if entry[2] is None]
    assert {name: count for name, count in summary.counts.items() if name.startswith("failed_")} == expected
    assert (summary.counts["rows"], summary.counts["images"]) == (len(entries), len(good))
    assert summary.counts["captioned"] == len(good)
    assert seconds < 150


def test_every_entry_has_its_row_with_its_cause_and_nothing_else_is_lost(downloaded):
    folder, entries, _, _, _ = downloaded
    rows = read_rows(folder)
    assert rows["expected"].isna().tolist() == (rows["status"] == "success").tolist()
    assert len(rows) == len(entries)
    assert rows["error_message"].notna().tolist() == [cause is not None for _, _, cause in entries]


def test_captions_arrive_whole(downloaded):
    folder, entries, _, _, _ = downloaded
    shards = sorted((folder / "shards").glob("*.tar"))
    found = [sample.captions for shard in shards for sample in read_shard(shard)]
    assert found == [(caption,) for _, caption, cause in entries if cause is None]
    assert len(LONG.encode()) > 1_000_000


def test_only_what_may_pass_is_tried_again(downloaded):
    seen = downloaded[-1]
    assert seen["/flaky"] == 2
    assert seen["/drip"] == seen["/silent"] == seen["/short"] == 2
    assert seen["/missing"] == seen["/html"] == seen["/big"] == seen["/robots"] == 1
    assert seen["/good/1.png"] == 1  # nothing came by way of 127.0.0.2


def test_passwords_are_nowhere(downloaded):
    folder = downloaded[0]
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in read_rows(folder).to_json(orient="records")
    assert read_rows(folder)["url"].str.endswith("/login/y").sum() == 1


def test_passwords_are_not_in_errors_or_logs(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "list.txt").write_text(f"http://user:{SECRET}@127.0.0.1:port/x\nhttp://user:{SECRET}@127.0.0.9/y\n")
    source = {"kind": "url_list", "path": tmp_path / "list.txt"}
    with pytest.raises(YieldTooLow) as caught:
        download(make_config(tmp_path, source=source), tmp_path / "out")
    assert SECRET not in str(caught.value) + caplog.text


def test_repeated_addresses_and_contents_are_counted(downloaded):
    summary = downloaded[2]
    assert summary.counts["duplicate_urls"] == 1
    assert summary.counts["duplicate_images"] == 3  # good/3 with a query, good/5 again, good/7 by way of a redirect


def test_a_second_run_gives_the_same_bytes(downloaded, hostile):
    folder, _, server = hostile
    server.seen.clear()
    download(make_config(folder / "list.parquet", threads=5), folder / "two")
    assert folder_digests(folder / "two") == folder_digests(folder / "one")


def test_duplicates_can_be_dropped(hostile, tmp_path):
    folder, _, server = hostile
    entries = pd.read_parquet(folder / "list.parquet")
    entries[entries["expected"].isna()].to_parquet(tmp_path / "list.parquet")
    server.seen.clear()
    options = {"drop_duplicate_urls": True, "drop_duplicate_images": True, "rows_per_shard": 3, "min_yield": 1.0}
    summary = download(make_config(tmp_path / "list.parquet", **options), tmp_path / "out")
    assert summary.counts["failed_duplicate_url"] == 1
    assert summary.counts["failed_duplicate_content"] == 2
    assert summary.items == len(entries[entries["expected"].isna()]) - 3
    assert server.seen["/good/5.png"] == 1
    rows = read_rows(tmp_path / "out")
    kept = rows[rows["status"] == "success"]
    assert kept["sha256"].is_unique
    first = rows.dropna(subset="sha256").drop_duplicates("sha256")
    assert kept["key"].tolist() == first["key"].tolist()  # of several, the first in the list
    stored = [sample.key for shard in sorted((tmp_path / "out/shards").glob("*.tar")) for sample in read_shard(shard)]
    assert stored == kept["key"].tolist()


def test_too_low_a_yield_stops_after_the_probe(hostile, tmp_path):
    _, _, server = hostile
    host = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "list.txt").write_text("\n".join(f"{host}/missing/{index}" for index in range(40)))
    source = {"kind": "url_list", "path": tmp_path / "list.txt"}
    with pytest.raises(YieldTooLow, match=r"0 of 8 entries"):
        download(make_config(tmp_path, source=source, rows_per_shard=4, probe_shards=2), tmp_path / "out")
    assert server.seen["/missing/8"] == 0
    assert list(json.loads((tmp_path / "out/plan.json").read_text())) == ["seal", "units"]


def test_loopback_is_refused_unless_it_is_named(hostile, tmp_path):
    _, _, server = hostile
    port = server.server_port
    names = [f"http://{name}:{port}/good/1.png" for name in ("127.0.0.1", "localhost", "2130706433", "0.0.0.0")]
    (tmp_path / "list.txt").write_text("\n".join(names))
    server.seen.clear()
    source = {"kind": "url_list", "path": tmp_path / "list.txt"}
    with pytest.raises(YieldTooLow, match="private_address 4"):
        download(make_config(tmp_path, source=source, allowed_networks=[]), tmp_path / "out")
    assert not server.seen
    assert socket.gethostbyname("2130706433") == "127.0.0.1"
