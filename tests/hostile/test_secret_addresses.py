"""Passwords and signatures in the addresses of sources: whatever becomes of an entry, no file that is left has them."""

import contextlib
import csv
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hostile.datasets import IMAGE
from tests.hostile.downloads import download, lost_by_url, rows
from tests.hostile.tars import png, tar_of

CANARY = "c4naryX9"


def files_with_the_secret(folder: Path) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    in_tables = [file for file in files if file.suffix == ".parquet" and CANARY in str(pq.read_table(file).to_pylist())]
    return sorted({*map(str, in_tables), *(str(file) for file in files if CANARY.encode() in file.read_bytes())})


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Serve an image at every path but /to/…, which leads to the address that follows, and yield host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, is_redirect, target = self.path.partition("/to/")
            self.send_response(302 if is_redirect else 200)
            if is_redirect:
                self.send_header("Location", urllib.parse.unquote(target))
            self.end_headers()
            if not is_redirect:
                self.wfile.write(png(50))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def to(host: str, address: str) -> str:
    return f"http://{host}/to/{urllib.parse.quote(address, safe='')}"


@pytest.mark.parametrize("engine", ["guarded", "img2dataset"])
def test_neither_engine_writes_a_secret_of_an_address(tmp_path: Path, engine: str) -> None:
    with serve() as host:
        good = [
            f"http://{host}/a.png",
            f"http://bob:{CANARY}@{host}/b.png",
            f"HTTP://{host}/c.png",
            f"http://{host}/d é.png?X-Amz-Signature={CANARY}",
            f"http://{host}/e.png?from=http://bob:{CANARY}@h/1.png",
            f"http://{host}/f.png?from={urllib.parse.quote(f'http://bob:{CANARY}@h/1.png', safe='')}",
        ]
        bad = [
            f"http://bob:{CANARY}@localhost:9/1.png",
            f"http://bob:{CANARY}/x@{host}/1.png",
            f"bad://bob:{CANARY}@{host}/1.png",
            to(host, f"ftp://bob:{CANARY}@127.0.0.1:9/1.png"),
            to(host, f"gopher://bob:{CANARY}@127.0.0.1:9/1.png"),
            to(host, f"http://bob:{CANARY}@127.0.0.1:x/1.png"),
            to(host, f"http://127.0.0.1:9/1.png?token={CANARY}"),
        ]
        (tmp_path / "list.txt").write_text("\n".join([*good, *bad]) + "\n")
        source = {"kind": "url_list", "path": tmp_path / "list.txt", "caption_column": None}
        networks = ["127.0.0.0/8", "::1/128"]
        summary = download(source, tmp_path / "out", engine=engine, allowed_networks=networks, retries=0)
    assert (summary.counts["rows"], summary.items) == (len(good) + len(bad), len(good))
    assert files_with_the_secret(tmp_path / "out") == []
    assert CANARY not in str(summary)


def test_no_redirect_s_address_is_quoted_by_img2dataset(tmp_path: Path) -> None:
    with serve() as host:
        listed = [to(host, f"http://bob:{CANARY}@127.0.0.1/1.png"), to(host, "gopher://127.0.0.1:9/1.png")]
        (tmp_path / "list.txt").write_text("\n".join(listed) + "\n")
        source = {"kind": "url_list", "path": tmp_path / "list.txt", "caption_column": None}
        download(source, tmp_path / "out", engine="img2dataset")
    assert list(rows(tmp_path / "out")["error_message"]) == ["invalid address", "invalid address"]


def test_paths_in_the_rows_of_a_dataset(tmp_path: Path) -> None:
    address = f"https://h/a.png?X-Amz-Signature={CANARY}"
    images = [
        {"bytes": png(10), "path": address},
        {"bytes": None, "path": f"https://bob:{CANARY}@h/b.png"},
        {"bytes": png(20), "path": f"zip://c.png::https://bob:{CANARY}@h/c.zip"},
        {"bytes": b"damaged", "path": f"/x/.hidden/http://bob:{CANARY}@h/"},
        {"bytes": None, "path": f".hidden/http://bob:{CANARY}@h/"},
        {"bytes": png(30), "path": "plain/a?key=2.png"},
    ]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": pa.array(images, IMAGE), "text": ["a"] * 6}), tmp_path / "in/train.parquet")
    source = {"kind": "huggingface", "path": tmp_path / "in", "caption_column": "text"}
    assert download(source, tmp_path / "out").items == 3
    assert files_with_the_secret(tmp_path / "out") == []
    urls = list(rows(tmp_path / "out")["url"])
    assert urls[:2] == ["https://h/a.png?X-Amz-Signature=…", "https://h/b.png"]
    assert "plain/a?key=2.png" in urls


def test_names_in_metadata_and_tars(tmp_path: Path) -> None:
    secret = f"https://bob:{CANARY}@h/a.png"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.png").write_bytes(png(10))
    with (tmp_path / "folder/metadata.csv").open("w") as file:
        csv.writer(file).writerows([("file_name", "text"), ("a.png", "x"), (secret, "y"), (f"b/{secret}", "z")])
    source = {"kind": "folder", "path": tmp_path / "folder", "caption_column": "text"}
    download(source, tmp_path / "out")
    assert len(lost_by_url(tmp_path / "out")) == 2
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/x.tar").write_bytes(tar_of([(secret, png(20)), (f"https://bob:{CANARY}@h/b.txt", b"text")]))
    download({"kind": "webdataset", "path": tmp_path / "tars"}, tmp_path / "out2")
    assert list(rows(tmp_path / "out2")["url"]) == ["https://h/a", "https://h/b"]
    assert files_with_the_secret(tmp_path) == sorted([f"{tmp_path}/folder/metadata.csv", f"{tmp_path}/tars/x.tar"])
