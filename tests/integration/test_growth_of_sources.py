"""Growth of each kind of source: which shards are taken over, what becomes of the others, and what a plan says."""

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.loading import load_config
from pipeline.plan import PlannedStage, make_plan
from pipeline.store import Store
from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.contract.runner import run_stage
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig, WebdatasetSource
from stages.download_shards.growth import GrowthRecord
from stages.download_shards.sources.webdataset import Webdataset
from stages.download_shards.stage import run
from stages.formats.samples import sample_keys, unnumbered
from stages.formats.shards import ShardRecord, read_shard, read_table, shard_tar
from stages.storage.artifact import Artifact
from tests.factories import folder_digests, make_context, serve_folder
from tests.icon_packages import write_packages

ROWS = 3


class Pile:
    """A store, and download_shards of one source."""

    def __init__(self, folder: Path, source: Mapping[str, Any], **options: Any) -> None:
        self.folder, self._source = folder, source
        self._options = {"rows_per_shard": ROWS, "image_size": 16, "encode_format": "png", "min_yield": 0} | options

    def plan(self, store: str = "store", **changes: Any) -> tuple[Store, PlannedStage]:
        config = self.folder / "pile.yaml"
        section = self._options | {"source": dict(self._source) | changes}
        config.write_text(json.dumps({"download_shards": section}))
        found = Store(str(self.folder / store))
        return found, make_plan(load_config(config), found).stages["download_shards"]

    def run(self, store: str = "store", **changes: Any) -> tuple[Artifact, dict[str, int]]:
        where, stage = self.plan(store, **changes)
        output = where.output(stage.name, stage.fingerprint)
        summary = run_stage(
            run, stage.config, inputs={}, output=output, context=make_context(), identity=stage.identity
        )
        return where.artifact(stage.name, stage.fingerprint), dict(summary.counts)

    def makes_the_same_of_nothing(self, artifact: Artifact, **changes: Any) -> bool:
        """Tell whether the same shards come out where no file of the earlier ones can be taken over."""
        shutil.copytree(self.folder / "store", self.folder / "damaged")
        copy = self.folder / "damaged" / "artifacts" / "download_shards"
        for tar in copy.glob(f"*[!{artifact.fingerprint}]/shards/*.tar"):
            tar.write_bytes(b"damaged")
        shutil.rmtree(copy / artifact.fingerprint)
        again, _ = self.run("damaged", **changes)
        assert again.fingerprint == artifact.fingerprint
        return shards_of(again) == shards_of(artifact)


def shards_of(artifact: Artifact) -> dict[str, str]:
    return {name: found for name, found in folder_digests(Path(artifact.uri)).items() if name.startswith("shards/")}


def names_of(artifact: Artifact) -> list[str]:
    return sorted(ShardRecord.done(artifact))


def keys(artifact: Artifact) -> list[str]:
    return [
        sample.key for name in names_of(artifact) for sample in read_shard(shard_tar(artifact, name)) if sample.image
    ]


def png(number: int) -> bytes:
    file = io.BytesIO()
    coarse = np.random.default_rng(number).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((16, 16)).save(file, "PNG")
    return file.getvalue()


def write_rows(path: Path, numbers: Sequence[int], make_image: Callable[[int], Any] = png) -> None:
    rows = [{"image": make_image(number), "text": f"image {number}"} for number in numbers]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def in_a_file(folder: Path, number: int) -> str:
    (folder / f"{number}.png").write_bytes(png(number))
    return f"{number}.png"


@pytest.mark.parametrize("held", [True, False])
def test_rows_of_a_hugging_face_folder_are_found_again_by_their_content(tmp_path: Path, held: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write = functools.partial(write_rows, make_image=png if held else functools.partial(in_a_file, data))
    write(data / "train-1.parquet", range(1, 10))
    pile = Pile(tmp_path, {"kind": "huggingface", "path": str(data), "caption_column": "text"})
    first, _ = pile.run()
    write(data / "train-0.parquet", [20])  # before all others
    write(data / "train-1.parquet", [1, 2, 3, 4, 6, 7, 8, 9])  # without 5
    _, plan = pile.plan()
    assert plan.reason.startswith("2 of 4 shards reused from artifact ")
    assert ", 1 made again without fetching, 1 new, because 1 entries are new or changed and 1 are gone" in plan.reason
    second, counts = pile.run()
    assert (counts["reused_shards"], counts["remade_shards"], counts["captioned"]) == (2, 1, 9)
    before, after = keys(first), keys(second)
    assert [key for key in before if key in after] == after[:-1]
    assert len(after) == 9
    assert pile.makes_the_same_of_nothing(second)
    if not held:
        (data / "7.png").write_bytes(png(70))  # whose row says what it said
        assert (
            "2 of 5 shards reused" in pile.plan()[1].reason or "1 entries are new or changed" in pile.plan()[1].reason
        )


def write_tar(path: Path, numbers: Sequence[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, number in enumerate(numbers):
            member = tarfile.TarInfo(f"{index}.png")
            content = png(number)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("target", ["blobs/0a1b", "blobs/0a1b.tar", "blobs/data.bin"])
@pytest.mark.parametrize("exchanged", ["content", "link"])
def test_a_tar_that_a_link_names_is_read_and_another_one_is_new(tmp_path: Path, target: str, exchanged: str) -> None:
    write_tar(tmp_path / target, [1, 2, 3])
    link = tmp_path / "snapshots" / "train.tar"
    link.parent.mkdir()
    link.symlink_to(f"../{target}")
    pile = Pile(tmp_path, {"kind": "webdataset", "path": str(link)})
    first, counts = pile.run()
    assert counts["images"] == 3
    before = stored_images(first)
    if exchanged == "content":
        write_tar(tmp_path / target, [4, 5, 6])
    else:
        write_tar(tmp_path / "blobs" / "others", [4, 5, 6])
        link.unlink()
        link.symlink_to("../blobs/others")
    second, counts = pile.run()
    assert second.fingerprint != first.fingerprint
    assert (counts["images"], counts.get("reused_shards", 0)) == (3, 0)
    assert not before & stored_images(second)


def test_a_webdataset_whose_path_is_a_link_counts_by_its_content(tmp_path: Path) -> None:
    write_tar(tmp_path / "blobs" / "one", [1])
    write_tar(tmp_path / "blobs" / "two", [2])
    link = tmp_path / "snapshots" / "train.tar"
    link.parent.mkdir()
    found = []
    for target in ("one", "two"):
        config = DownloadShardsConfig.model_validate({"source": {"kind": "webdataset", "path": link}})
        assert isinstance(config.source, WebdatasetSource)
        link.symlink_to(f"../blobs/{target}")  # after the config was read: the source itself is the link
        with Webdataset(config.source, config).parts() as parts:
            assert parts.growth is not None
            found.append(parts.growth.digests.tolist())
        link.unlink()
    assert found[0] != found[1]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Read files with the rights of another user, where tests run as root, who may read all."""
    own = os.geteuid()
    os.seteuid(65534 if own == 0 else own)
    try:
        yield
    finally:
        os.seteuid(own)


def test_a_tar_that_may_not_be_read_is_counted_and_taken_in_once_it_can(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for number in range(3):
            write_tar(folder / f"{number}.tar", [3 * number, 3 * number + 1])
        (folder / "1.tar").chmod(0)
        config = DownloadShardsConfig.model_validate({"source": {"kind": "webdataset", "path": name}})
        assert isinstance(config.source, WebdatasetSource)
        source, digests = Webdataset(config.source, config), []
        with as_nobody():
            source.check()
            for _ in range(2):
                with source.parts() as parts:
                    assert parts.growth is not None
                    digests.append(parts.growth.digests.tolist())
            contents = [[entry.content for entry in source.read(part).each] for part in parts.parts]
        (folder / "1.tar").chmod(0o644)
        with as_nobody(), source.parts() as parts:
            assert parts.growth is not None
            digests.append(parts.growth.digests.tolist())
    assert [len(one) for one in contents] == [2, 1, 2]
    assert isinstance(fault := contents[1][0], ItemFault)
    assert fault.cause is FailureCause.UNREADABLE_FILE
    assert digests[0] == digests[1]
    assert [one == other for one, other in zip(digests[0], digests[2], strict=True)] == [True, False, True]


@pytest.mark.parametrize("content", [b"", b"url\n", b"x" * 2000, bytes(2000)])
def test_a_file_that_is_no_tar_is_refused_as_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list").write_bytes(content)
    config = DownloadShardsConfig.model_validate({"source": {"kind": "webdataset", "path": tmp_path / "list"}})
    with pytest.raises(InputFault, match=r"list: no \.tar file there"):
        check(config)


def stored_images(artifact: Artifact) -> set[bytes | None]:
    return {sample.image for name in names_of(artifact) for sample in read_shard(shard_tar(artifact, name))}


def test_drawings_of_further_artists_are_added(tmp_path: Path) -> None:
    packages = write_packages(tmp_path / "node_modules")
    pile = Pile(tmp_path, {"kind": "drawings", "path": str(packages), "resolution": 16})
    first, _ = pile.run(sets=["openmoji"])
    assert "3 of 6 shards reused" in pile.plan(sets=["twemoji", "openmoji"])[1].reason
    second, counts = pile.run(sets=["twemoji", "openmoji"])
    assert counts["reused_shards"] == 3
    assert keys(second)[: len(keys(first))] == keys(first)
    assert pile.makes_the_same_of_nothing(second, sets=["twemoji", "openmoji"])
    assert "reused" not in pile.plan(sets=["openmoji"], resolution=32)[1].reason


def test_scenes_are_made_anew_for_a_reason(tmp_path: Path) -> None:
    pile = Pile(tmp_path, {"kind": "scenes", "num_images": 4, "resolution": 16})
    pile.run()
    _, plan = pile.plan(num_images=5)
    assert "no shard is taken over: scenes are rendered in seconds" in plan.reason
    assert "grown_from" not in plan.identity


def test_repeated_images_follow_their_originals(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):
        (folder / f"b{number}.png").write_bytes(png(number))
    (folder / "b7.png").write_bytes(png(1))  # in the third shard, of one in the first
    pile = Pile(tmp_path, {"kind": "folder", "path": str(folder)}, drop_duplicate_images=True)
    _, counts = pile.run()
    assert counts["failed_duplicate_content"] == 1

    (folder / "a0.png").write_bytes(png(2))  # of one that is there: the new one is dropped, though its name is first
    second, counts = pile.run()
    assert (counts["reused_shards"], counts["images"], counts["failed_duplicate_content"]) == (3, 8, 2)
    rows = {row["url"]: row["status"] for name in names_of(second) for row in read_table(second, name).to_pylist()}
    assert [name for name, status in rows.items() if status != "success"] == ["b7.png", "a0.png"]
    assert pile.makes_the_same_of_nothing(second)

    (folder / "b1.png").unlink()  # the original of b7, which comes back
    third, counts = pile.run()
    assert counts["images"] == 8
    assert counts["failed_duplicate_content"] == 1
    assert (counts["reused_shards"], counts["remade_shards"]) == (2, 2)
    shutil.rmtree(tmp_path / "damaged")
    assert pile.makes_the_same_of_nothing(third)
    alone, counts_alone = Pile(tmp_path, {"kind": "folder", "path": str(folder)}, drop_duplicate_images=True).run("new")
    assert counts_alone["images"] == 8
    contents = [
        {row["sha256"] for name in names_of(one) for row in read_table(one, name).to_pylist()} for one in (third, alone)
    ]
    assert contents[0] == contents[1]


@contextlib.contextmanager
def serve_by_parameter() -> Iterator[str]:
    """Serve ``png(number)`` at every path that ends in a number, or in ``?key=<number>``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            named = urllib.parse.parse_qs(parts.query).get("key", [parts.path.rpartition("/")[2]])
            content = png(int(named[0]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def contents(artifact: Artifact) -> list[str]:
    return [row["sha256"] for name in names_of(artifact) for row in read_table(artifact, name).to_pylist()]


@pytest.mark.parametrize("drop_duplicate_urls", [False, True])
def test_addresses_that_differ_in_a_secret_name_alone_are_samples_of_their_own(
    tmp_path: Path, drop_duplicate_urls: bool
) -> None:
    listed = tmp_path / "list.txt"
    options = {"allowed_networks": ["127.0.0.1/32"], "drop_duplicate_urls": drop_duplicate_urls}
    with serve_by_parameter() as base:
        pile = Pile(tmp_path, {"kind": "url_list", "path": str(listed)}, **options)

        def write(numbers: Sequence[int], signature: str) -> None:
            listed.write_text("\n".join(f"{base}/image?key={n}&sig={signature}" for n in numbers) + f"\n{base}/9")

        write([1, 2, 3], "a")
        first, counts = pile.run()
        assert "duplicate_urls" not in counts
        assert len({unnumbered(key) for key in keys(first)}) == len(keys(first)) == 4
        rows = [row for name in names_of(first) for row in read_table(first, name).to_pylist()]
        assert [row["url"] for row in rows] == [f"{base}/image?key=…&sig=…"] * 3 + [f"{base}/9"]

        write([2, 3], "b")  # a signature is nobody's name
        second, counts = pile.run()
        assert (counts["reused_shards"], counts["remade_shards"]) == (1, 1)
        assert (keys(second), contents(second)) == (keys(first)[1:], contents(first)[1:])
        assert pile.makes_the_same_of_nothing(second)

        write([4, 5, 6], "a")
        third, counts = pile.run()
        assert GrowthRecord.of(third).kept_entries == 1  # the address without a parameter
        assert not set(contents(third)[1:]) & set(contents(first))


def test_presigned_addresses_keep_their_samples_when_they_are_signed_anew(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    with serve_by_parameter() as base:
        source = {"kind": "url_list", "path": str(listed)}
        pile = Pile(tmp_path, source, allowed_networks=["127.0.0.1/32"])

        def write(sign: Callable[[int], str]) -> None:
            listed.write_text("\n".join(f"{base}/{n}?token={sign(n)}&X-Amz-Signature={sign(n)}" for n in range(5)))

        write(lambda number: f"old{number}")
        first, _ = pile.run()
        expected = sample_keys(f"{base}/{n}?token=…&X-Amz-Signature=…" for n in range(5))
        assert keys(first) == expected
        write(lambda number: f"new{number % 2}")
        second, counts = pile.run()
        assert counts["reused_shards"] == 2
        assert keys(second) == expected

        listed.write_text("\n".join(f"{base}/7?sig={sign}" for sign in "abc"))  # one image, thrice
        third, counts = pile.run()
        assert {unnumbered(key) for key in keys(third)} == {keys(third)[0]}


def test_repeated_addresses_follow_their_originals(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for number in range(8):
        (served / f"{number}.png").write_bytes(png(number))
    listed = tmp_path / "list.csv"

    def write(names: Sequence[str]) -> None:
        listed.write_text("url,of\n" + "\n".join(f"{base}/{name.rstrip('bc')}.png,{name}" for name in names))

    options = {"drop_duplicate_urls": True, "allowed_networks": ["127.0.0.1/32"]}
    with serve_folder(served) as base:
        pile = Pile(tmp_path, {"kind": "url_list", "path": str(listed)}, **options)
        write(["0", "1", "2", "3", "4", "1b", "5"])
        pile.run()
        write(["0", "1", "2", "3", "4", "1b", "5", "2b"])
        second, counts = pile.run()
        assert (counts["reused_shards"], counts["failed_duplicate_url"], counts["images"]) == (3, 2, 6)
        write(["0", "2", "3", "4", "1b", "5", "2b"])
        third, counts = pile.run()
        assert (counts["failed_duplicate_url"], counts["images"]) == (1, 6)
        rows = {row["of"]: row["status"] for name in names_of(third) for row in read_table(third, name).to_pylist()}
        assert [name for name, status in rows.items() if status != "success"] == ["2b"]
        assert sorted(keys(third)) == sorted(keys(second))
