"""The same list through both engines: the same images, counts and captions; what differs is what is fetched at all."""

import contextlib
import http.server
import threading

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.img2dataset_engine import fault_of
from stages.download_shards.stage import run
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import folder_digests, interrupt_after, make_context
from tests.hostile import image_files as files

SCENE = files.scene(96, 64)
CONTENTS = {
    "plain.jpg": files.encode(SCENE, "JPEG"),
    "turned.jpg": files.turned(SCENE, 6, "JPEG"),
    "deep.png": files.raw_png(SCENE.astype(np.uint16) * 257, kind=2),
    "alpha.png": files.encode(np.dstack([SCENE, np.full((64, 96), 128, np.uint8)]), "PNG"),
    "bomb.png": files.png_bomb(),
    "page.jpg": b"<html>",
    "cut.jpg": files.encode(SCENE, "JPEG")[:400],
}
LOST = ("missing.jpg", "opted-out.jpg", "loop.jpg")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the contents, and what is no content."""

    def do_GET(self):
        name = self.path.strip("/")
        content = CONTENTS.get(name, CONTENTS["plain.jpg"])
        self.send_response({"missing.jpg": 404, "loop.jpg": 302}.get(name, 200))
        if name == "loop.jpg":
            self.send_header("Location", "/loop.jpg")
        if name == "opted-out.jpg":
            self.send_header("X-Robots-Tag", "noai")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "list.parquet"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        names = [*CONTENTS, *LOST]
        urls = [f"{base}/{name}" for name in names] + ["http://127.0.0.1:9/x.jpg", "file:///etc/hostname", None]
        captions = [[f"caption {n}", "another"] if n % 2 else [] for n in range(len(urls))]
        pd.DataFrame({"url": urls, "text": captions, "number": range(len(urls))}).to_parquet(path)
        yield path
        server.shutdown()
        thread.join()


def make_config(path, **options):
    source = {"kind": "url_list", "path": path, "caption_column": "text"}
    defaults = {
        "rows_per_shard": 5,
        "image_size": 32,
        "min_yield": 0.1,
        "retries": 0,
        "allowed_networks": ["127.0.0.1"],
    }
    return DownloadShardsConfig(source=source, **(defaults | options))


def convert(config, folder, mapper=None):
    context = make_context() if mapper is None else make_context(map_shards=mapper)
    return run(config, {}, Output(str(folder), "download_shards", "test"), context)


def samples(folder):
    tars = sorted((folder / "shards").glob("*.tar"))
    return [(sample.key, sample.image, sample.captions) for tar in tars for sample in read_shard(tar)]


@pytest.fixture(scope="module")
def both(listed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    counts = {}
    for engine in ("guarded", "img2dataset"):
        counts[engine] = convert(make_config(listed, engine=engine), folder / engine).counts
    return folder, counts


def test_both_engines_give_the_same_images_captions_and_counts(both):
    folder, counts = both
    assert counts["guarded"] == counts["img2dataset"]
    assert counts["guarded"] == {
        "rows": 13, "images": 4, "captioned": 2, "failed_connection_refused": 1, "failed_disallowed": 1,
        "failed_http_404": 1, "failed_image_too_large": 1, "failed_invalid_url": 2, "failed_too_many_redirects": 1,
        "failed_truncated_image": 1, "failed_unsupported_format": 1,
    }  # fmt: skip
    assert samples(folder / "guarded") == samples(folder / "img2dataset")
    rows = [
        pd.concat(pd.read_parquet(path) for path in sorted((folder / engine / "shards").glob("*.parquet")))
        for engine in ("guarded", "img2dataset")
    ]
    ours, theirs = (one.drop(columns="error_message") for one in rows)
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_stopped_run_of_img2dataset_continues(both, listed, tmp_path):
    config = make_config(listed, engine="img2dataset")
    with pytest.raises(KeyboardInterrupt):
        convert(config, tmp_path / "out", interrupt_after(1))
    convert(config, tmp_path / "out")
    digests = [folder_digests(folder / "shards") for folder in (tmp_path / "out", both[0] / "img2dataset")]
    assert digests[0] == digests[1]


def test_options_are_for_img2dataset_and_img2dataset_for_lists(tmp_path):
    with pytest.raises(ValidationError, match="img2dataset: found options, but engine is guarded"):
        make_config(tmp_path, img2dataset={"retries": 3})
    with pytest.raises(ValidationError, match="engine: found img2dataset with a source of kind folder"):
        DownloadShardsConfig(source={"kind": "folder", "path": tmp_path}, engine="img2dataset")
    options = {"retries": 3, "thread_count": 4, "user_agent_token": "us", "disallowed_header_directives": []}
    assert make_config(tmp_path, engine="img2dataset", img2dataset=options).img2dataset.thread_count == 4


@pytest.mark.parametrize(
    ("message", "label"),
    [
        ("HTTP Error 503: Service Unavailable", "http_503"),
        ("HTTP Error 302: a redirect error that would lead to an infinite loop.", "too_many_redirects"),
        ("<urlopen error [Errno 111] Connection refused>", "connection_refused"),
        ("<urlopen error [Errno -2] Name or service not known>", "unknown_host"),
        ("<urlopen error timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "bad_certificate"),
        ("IncompleteRead(5 bytes read, 10 more expected)", "connection_lost"),
        ("Use of image disallowed by X-Robots-Tag directive", "disallowed"),
        ("something new\x1b[31m", "other"),
    ],
)  # fmt: skip
def test_its_messages_have_causes(message, label):
    fault = fault_of(message)
    assert fault.label == label
    assert "\x1b" not in str(fault)
    assert "something new" not in str(fault)
