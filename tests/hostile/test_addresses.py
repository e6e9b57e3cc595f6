"""A list full of addresses that lead into the machine, its network or its cloud: none is connected to, all are counted.

Through the download stage, with a proxy in the environment that would connect to anything.
"""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from stages.contract.errors import InputFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.storage.artifact import Output
from stages.storage.filesystems import open_address
from tests.factories import make_context, save_image, serve_folder

HOSTS = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0177.1",
    "127.1",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "0.0.0.0",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::1]",
    "[2001:0:7f00:1::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::1]",
    "[ff02::1]",
    "[fec0::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[2a00:1450::5efe:7f00:1]",
    "[2a00:1450:4001:aabb::a9fe:a9fe]",
    "[3fff::1]",
    "[5f00::1]",
]
SAME_AS_LOOPBACK = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0177.1",
    "127.1",
    "[::ffff:127.0.0.1]",
    "[2002:7f00:1::1]",
]  # allowed where 127.0.0.1 is


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Answers whatever it is asked for, and keeps it."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    do_CONNECT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    class Handler(_Proxy):
        asked: ClassVar[list[str]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        yield Handler.asked
        server.shutdown()


def test_no_address_inside_is_connected_to_and_no_proxy_is_asked(tmp_path: Path, proxy: list[str]) -> None:
    """The one that is allowed by the config arrives, by no proxy."""
    save_image(tmp_path / "web" / "good.png")
    with serve_folder(tmp_path / "web") as base:
        port = base.rpartition(":")[2]
        urls = [f"http://{host}:{port}/good.png" for host in HOSTS]
        pd.DataFrame({"url": urls}).to_parquet(tmp_path / "list.parquet")
        source = {"kind": "url_list", "path": tmp_path / "list.parquet"}
        options = {"source": source, "image_size": 16, "min_yield": 0.0, "retries": 0, "timeout": 2.0}
        closed = DownloadShardsConfig.model_validate(options)
        summary = run(closed, {}, Output(str(tmp_path / "closed"), "download_shards", "test"), make_context())
        assert summary.counts == {"rows": len(urls), "images": 0, "captioned": 0, "failed_private_address": len(urls)}
        opened = DownloadShardsConfig.model_validate(options | {"allowed_networks": ["127.0.0.1/32"]})
        summary = run(opened, {}, Output(str(tmp_path / "open"), "download_shards", "test"), make_context())
    same = sum(host in SAME_AS_LOOPBACK for host in HOSTS)
    assert summary.counts["failed_private_address"] == len(urls) - same
    assert summary.counts["images"] > 0
    assert not proxy


class _Redirect(http.server.BaseHTTPRequestHandler):
    """Sends a list's reader to another host."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/secret.csv")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_list_at_a_web_address_is_read_from_that_host_alone(tmp_path: Path, chain: str, proxy: list[str]) -> None:
    (tmp_path / "list.csv").write_text("url\nhttp://10.0.0.1/a.png\n")
    with serve_folder(tmp_path) as base:
        fs, path = open_address(f"{chain}{base}/list.csv")
        assert fs.cat_file(path).startswith(b"url")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirect) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        fs, path = open_address(f"{chain}http://127.0.0.1:{server.server_port}/list.csv")
        with pytest.raises(InputFault, match="redirects to localhost: allowed are"):
            fs.cat_file(path)
        server.shutdown()
    assert not proxy
