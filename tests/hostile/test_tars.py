"""Tars of strangers through the real stage: samples joined by key, nothing followed, and everything accounted for."""

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import tarfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from pipeline.initialize.survey import survey
from stages.contract.errors import InputFault, YieldTooLow
from stages.contract.stage import StageSummary
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import ShardSample, read_shard
from stages.storage.artifact import Output
from tests.factories import make_context
from tests.hostile.tars import END, header, long_name, member, padded, pax, png, tar_of, write


def convert(folder: Path, out: Path, **options: Any) -> StageSummary:
    config = DownloadShardsConfig.model_validate(
        {"source": {"kind": "webdataset", "path": folder}, "encode_format": "png", "min_yield": 0.0} | options
    )
    check(config)
    return run(config, {}, Output(str(out), "download_shards", "t"), make_context())


def samples(out: Path) -> list[ShardSample]:
    return [sample for tar in sorted((out / "shards").glob("*.tar")) for sample in read_shard(tar)]


def reds(out: Path) -> list[int]:
    found = [Image.open(io.BytesIO(sample.image or b"")).getpixel((3, 3)) for sample in samples(out)]
    return [pixel[0] for pixel in found if isinstance(pixel, tuple)]


def keys(out: Path) -> list[str]:
    tables = [pd.read_parquet(path) for path in sorted((out / "shards").glob("*.parquet"))]
    return [str(key) for table in tables for key in table["source_key"]]


def counts(summary: StageSummary) -> dict[str, int]:
    return {name: count for name, count in summary.counts.items() if name.startswith(("failed_", "skipped_"))}


def test_members_that_are_not_adjacent_are_one_sample(tmp_path: Path) -> None:
    images = [(f"{key}.png", png(red)) for key, red in (("b", 10), ("a", 20), ("c", 30))]
    texts = [(f"{key}.txt", f"caption {key}".encode()) for key in "cab"]
    described = [("a.json", json.dumps({"captions": ["one", "two"]}).encode())]
    summary = convert(write(tmp_path / "in", x=tar_of([*images, *texts, *described])), tmp_path / "out")
    assert dict(summary.counts) == {"rows": 3, "images": 3, "captioned": 3}
    assert reds(tmp_path / "out") == [10, 20, 30]
    assert [sample.captions for sample in samples(tmp_path / "out")] == [("caption b",), ("one", "two"), ("caption c",)]


def test_of_a_repeated_member_the_first_counts(tmp_path: Path) -> None:
    members = [
        ("a.png", png(10)), ("a.txt", b"first"), ("a.TXT", b"second"), ("b.png", png(20)), ("a.PNG", png(99)),
        ("c.jpg", png(30)), ("c.png", png(98)), ("c.txt", b"c"),
    ]  # fmt: skip
    summary = convert(write(tmp_path / "in", x=tar_of(members)), tmp_path / "out")
    assert (summary.counts["rows"], summary.counts["images"], summary.counts["captioned"]) == (3, 3, 2)
    assert counts(summary) == {"skipped_repeated_member": 3}  # a.TXT, a.PNG and c's further image
    assert reds(tmp_path / "out") == [10, 20, 30]
    assert samples(tmp_path / "out")[0].captions == ("first",)


def test_names_with_several_dots_are_split_at_the_first(tmp_path: Path) -> None:
    members = [
        ("d.1/a.v2.png", png(10)), ("d.1/a.v2.txt", b"of a"),  # the only image of its sample
        ("b.mask.png", png(99)), ("b.png", png(20)), ("b.txt", b"of b"), ("b.en.txt", b"further text"),
        ("b.caption", b"under another name"),
        ("c.left.png", png(98)), ("c.right.png", png(97)), ("c.txt", b"of c"),  # of which none is the image
        ("archive.tar.png", png(30)),
    ]  # fmt: skip
    summary = convert(write(tmp_path / "in", x=tar_of(members)), tmp_path / "out")
    assert (summary.counts["rows"], summary.counts["images"]) == (5, 3)
    assert counts(summary) == {
        "failed_dotted_name": 2, "skipped_caption_without_image": 2, "skipped_repeated_member": 1,
    }  # fmt: skip
    assert reds(tmp_path / "out") == [10, 20, 30]
    assert [sample.captions for sample in samples(tmp_path / "out")] == [("of a",), ("of b",), ()]
    assert keys(tmp_path / "out") == ["d.1/a", "b", "c.left", "c.right", "archive"]


@pytest.mark.parametrize("plain", [[], [("holiday.png", png(200)), ("holiday.txt", b"of all")]])
def test_every_image_that_is_lost_for_dots_in_its_name_is_counted(tmp_path: Path, plain: list[Any]) -> None:
    members = [(f"{n:04d}.{suffix}", content) for n in range(4) for suffix, content in (("png", png(n)), ("txt", b"x"))]
    for n in range(6):
        members += [(f"holiday.{n:04d}.png", png(100 + n)), (f"holiday.{n:04d}.txt", b"a caption")]
    folder = write(tmp_path / "in", x=tar_of([*members, *plain, ("holiday.0099.txt", b"of no image")]))
    summary = convert(folder, tmp_path / "out")
    images = 4 + bool(plain)
    assert (summary.counts["rows"], summary.items) == (images + 6, images)
    assert counts(summary) == {"failed_dotted_name": 6, "skipped_caption_without_image": 1}
    assert summary.metrics["yield"] == pytest.approx(images / (images + 6))
    table = pd.read_parquet(next((tmp_path / "out/shards").glob("*.parquet"))).set_index("source_key")
    message = str(table.loc["holiday.0003", "error_message"])
    assert message.startswith("the name has several dots: ")
    assert message.endswith("name of their own before the first dot: holiday_0003.png")
    with pytest.raises(YieldTooLow, match=r"dotted_name.*rename the files in the tars"):
        convert(folder, tmp_path / "poor", min_yield=0.9)
    assert survey({"kind": "webdataset", "path": str(folder)}).faults == {"dotted_name": 6}


def test_what_belongs_to_no_sample_is_counted(tmp_path: Path) -> None:
    members = [
        ("README", b"x"), ("__index__", b"x"), ("dir/._a.png", b"mac"), (".DS_Store", b"x"), ("notes.md", b"x"),
        ("only.txt", b"a caption of no image"), ("a.png", png(10)), ("a.cls", b"3"), ("a.txt", b"of a"),
    ]  # fmt: skip
    summary = convert(write(tmp_path / "in", x=tar_of(members)), tmp_path / "out")
    assert dict(summary.counts) == {
        "rows": 2, "images": 1, "captioned": 1, "failed_missing_file": 1,
        "skipped_hidden_file": 2, "skipped_no_image_file": 3,
    }  # fmt: skip


def test_names_that_are_no_text_are_recorded_clean(tmp_path: Path) -> None:
    content = (
        member(b"caf\xe9.png", png(10)) + member(b"caf\xe9.txt", "café".encode())
        + member("../../etc/b.png", png(20)) + member("/abs/c.png", png(30))
        + pax({"path": "nul\0name.png"}) + member("ignored.png", png(40))
        + member("bell\x07\x1b[31m.png", png(50))
        + long_name("deep/" * 60 + "e.png") + member("short.png", png(60))
    )  # fmt: skip
    summary = convert(write(tmp_path / "in", x=content + END), tmp_path / "out")
    assert (summary.counts["rows"], summary.counts["images"], summary.counts["captioned"]) == (6, 6, 1)
    assert reds(tmp_path / "out") == [10, 20, 30, 40, 50, 60]
    assert keys(tmp_path / "out") == [
        "caf\\xe9", "etc/b", "abs/c", "nul\\x00name", "bell\\x07\\x1b[31m", "deep/" * 60 + "e",
    ]  # fmt: skip


def test_what_links_name_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(99))
    content = (
        header("a.png", kind=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png")) + member("a.txt", b"linked")
        + member("b.png", png(10)) + header("c.png", kind=tarfile.LNKTYPE, linkname="b.png")
        + header("d.png", kind=tarfile.FIFOTYPE) + header("e.png", kind=tarfile.CHRTYPE)
        + header("folder/", kind=tarfile.DIRTYPE) + header("b.txt", kind=tarfile.SYMTYPE, linkname="/etc/passwd")
    )  # fmt: skip
    summary = convert(write(tmp_path / "in", x=content + END), tmp_path / "out")
    assert summary.counts["rows"] == 5
    assert counts(summary) == {"failed_not_a_file": 4, "failed_bad_caption_file": 1}


def test_sparse_members_are_not_expanded(tmp_path: Path) -> None:
    huge = header("a.png", 0, kind=tarfile.GNUTYPE_SPARSE)
    modern = pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 50)}) + member("b.png", png(10))
    summary = convert(write(tmp_path / "in", x=huge + modern + member("c.png", png(30)) + END), tmp_path / "out")
    assert (summary.counts["rows"], summary.counts["images"]) == (3, 1)
    assert counts(summary) == {"failed_not_a_file": 2}


LYING = {
    "negative": header("b.png", raw_size=b"\xff" * 12),
    "huge": header("b.png", raw_size=b"\x80" + b"\x7f" * 11),
    "beyond the end": header("b.png", 1 << 30),
    "pax size": pax({"size": "9" * 300}) + member("b.png", png(20)),
    "pax size negative": pax({"size": "-5"}) + member("b.png", png(20)),
    "no number": header("b.png", raw_size=b"z" * 12),
    "bad checksum": b"b.png".ljust(512, b"x"),
    "bad pax": header("pax", 512, kind=b"x") + b"99999999 path=x".ljust(512, b"a") + member("b.png", png(20)),
    "header of 8 GB": header("pax", kind=b"x", raw_size=b"\x80\0\0\0\0\0\0\x02\0\0\0\0") + b"1" * 512,
}


@pytest.mark.parametrize("kind", LYING)
def test_what_is_whole_before_a_lie_is_kept_and_the_rest_is_counted(tmp_path: Path, kind: str) -> None:
    content = member("a.png", png(10)) + LYING[kind] + member("c.png", png(30)) + END
    summary = convert(write(tmp_path / "in", x=content, y=tar_of([("d.png", png(40))])), tmp_path / "out")
    assert dict(summary.counts) == {"rows": 3, "images": 2, "captioned": 0, "failed_damaged_tar": 1}
    assert reds(tmp_path / "out") == [10, 40]


def test_large_extended_headers_are_not_read(tmp_path: Path) -> None:
    """A header of 300 MB, and a chain of 50,000 of them, cost their members at most, and no memory."""
    path = write(tmp_path / "in") / "x.tar"
    with path.open("wb") as file:
        file.write(header("pax", 300_000_000, kind=b"x"))
        file.seek(300_000_000 + (-300_000_000 % 512), os.SEEK_CUR)
        file.write(member("unknown.png", png(10)))
        for _ in range(50_000):
            file.write(long_name("chain.png"))
        file.write(member("x", png(20)) + member("b.png", png(30)) + END)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.monotonic() - begun < 100
    assert reds(tmp_path / "out") == [20, 30]
    assert counts(summary) == {"skipped_bad_name": 1}
    assert keys(tmp_path / "out") == ["chain", "b"]


@pytest.mark.parametrize("cut", ["in content", "in header", "between members", "before the end mark"])
def test_a_cut_tar_is_counted(tmp_path: Path, cut: str) -> None:
    first, second = member("a.png", png(10)), member("b.png", png(20))
    content = {
        "in content": first + second[:550],
        "in header": first + second[:100],
        "between members": first,
        "before the end mark": first + second,
    }[cut]
    summary = convert(write(tmp_path / "in", x=content), tmp_path / "out")
    assert counts(summary) == {"failed_damaged_tar": 1}
    assert reds(tmp_path / "out") == ([10, 20] if cut == "before the end mark" else [10])


def test_what_comes_after_the_end_mark_is_counted(tmp_path: Path) -> None:
    content = tar_of([("a.png", png(10))]) + tar_of([("b.png", png(20))])
    summary = convert(write(tmp_path / "in", x=content), tmp_path / "out")
    assert counts(summary) == {"failed_damaged_tar": 1}
    padded_tar = tar_of([("a.png", png(10))]) + b"\0" * 9000
    assert not counts(convert(write(tmp_path / "padded", x=padded_tar), tmp_path / "out2"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_tars_are_refused(tmp_path: Path, pack: Any) -> None:
    content = pack(tar_of([("a.png", png(10))]))
    with pytest.raises(InputFault, match=r"x\.tar is compressed by (gzip|bzip2|xz): plain tars are read.*unpack it"):
        convert(write(tmp_path / "in", x=content), tmp_path / "out")
    (write(tmp_path / "other") / "x.tar.gz").write_bytes(content)
    with pytest.raises(InputFault, match=r"no \.tar file there, but .*x\.tar\.gz, which is compressed"):
        convert(tmp_path / "other", tmp_path / "out")
    write(tmp_path / "other", y=tar_of([("a.png", png(10))]))
    assert counts(convert(tmp_path / "other", tmp_path / "out")) == {"skipped_no_image_file": 1}


def test_a_member_larger_than_max_bytes_is_not_read(tmp_path: Path) -> None:
    content = tar_of(
        [("a.png", b"\0" * 100_000), ("b.png", png(20)), ("c.png", png(30)), ("c.json", b" " * 17_000_000)]
    )
    summary = convert(write(tmp_path / "in", x=content), tmp_path / "out", max_bytes=50_000)
    assert counts(summary) == {"failed_bad_caption_file": 1, "failed_file_too_large": 1}
    assert reds(tmp_path / "out") == [20]


def test_odd_caption_files_cost_their_sample(tmp_path: Path) -> None:
    bad = {
        "deep": b"[" * 100_000, "latin": "caption é".encode("latin-1"), "list": b"[1]",
        "half": b'{"caption": "\\ud800"}',
        "struct": b'{"caption": {"text": "a"}}', "structs": b'{"captions": [{"text": "a"}]}',
        "number": b'{"caption": 7}',
    }  # fmt: skip
    members = [(f"{key}.{'txt' if key == 'latin' else 'json'}", content) for key, content in bad.items()]
    members += [(f"{key}.png", png(10)) for key in bad]
    good = [("g.png", png(30)), ("g.json", "\ufeff{}".encode()), ("g.txt", "\ufeffwith a mark".encode())]
    summary = convert(write(tmp_path / "in", x=tar_of([*members, *good])), tmp_path / "out")
    assert counts(summary) == {"failed_bad_caption_file": len(bad)}
    assert samples(tmp_path / "out")[0].captions == ("with a mark",)


def test_what_is_no_tar_of_the_folder_is_not_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside.tar"
    outside.write_bytes(tar_of([("secret.png", png(99))]))
    folder = write(tmp_path / "in", a=tar_of([("a.png", png(10))]), e=b"")
    (folder / "b.tar").symlink_to(outside)
    os.mkfifo(folder / "c.tar")
    (folder / "d.tar").mkdir()
    (folder / "f.TAR").write_bytes(tar_of([("f.png", png(20))]))
    (folder / "g.tar").symlink_to(folder / "a.tar")
    (folder / os.fsdecode(b"caf\xe9.tar")).write_bytes(tar_of([("h.png", png(30))]) + b"more")
    begun = time.monotonic()
    summary = convert(folder, tmp_path / "out")
    assert time.monotonic() - begun < 100
    assert counts(summary) == {"failed_damaged_tar": 2, "failed_not_a_file": 2, "failed_outside_folder": 1}
    assert sorted(reds(tmp_path / "out")) == [10, 10, 20, 30]
    by_address = convert(Path(), tmp_path / "again", source={"kind": "webdataset", "path": folder.as_uri()})
    assert counts(by_address) == counts(summary)


def test_an_index_of_many_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.formats import tar_samples

    monkeypatch.setattr(tar_samples, "MOST_MEMBERS", 3)
    content = tar_of([(f"{index}.png", png(index)) for index in range(9)])
    index = tar_samples.index_tar(io.BytesIO(content))
    assert len(index.samples) == 2
    assert "too many members" in str(index.fault)


def test_the_readers_of_our_shards_follow_the_same_rules(tmp_path: Path) -> None:
    content = member("a.txt", b"of a") + member("b.png", png(20)) + member("a.png", png(10)) + member("a.png", png(99))
    path = tmp_path / "x.tar"
    path.write_bytes(content + END)
    assert [(sample.key, sample.image, sample.captions) for sample in read_shard(path)] == [
        ("a", png(10), ("of a",)), ("b", png(20), ()),
    ]  # fmt: skip
    assert padded(b"") == b""
