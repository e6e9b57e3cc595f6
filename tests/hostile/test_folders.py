"""Folders of images as strangers make them: every name is an image, a counted failure or a counted skip."""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from stages.contract.findings import Findings, InspectionContext
from stages.download_shards.config import FolderSource
from stages.download_shards.inspect import inspect
from stages.download_shards.sources.folder import list_folder
from stages.storage.artifact import Output
from tests.factories import save_image
from tests.growth import assert_linear
from tests.hostile.downloads import captions_by_url, download, lost_by_url, red_of, samples
from tests.hostile.folders import accounted, convert, write_metadata


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


def test_every_kind_of_file_is_read_or_counted_by_what_it_is(folder):
    for index, suffix in enumerate(("jfif", "jpe", "JPEG", "avif", "tif", "webp")):
        form = "jpeg" if suffix in {"jfif", "jpe", "JPEG"} else suffix
        image = save_image(folder / f"{index}.{form}", color=(30 * index, 0, 0))
        image.rename(folder / f"{index}.{suffix}")
    for name in (
        "a.heic",
        "b.HEIC",
        "c.jp2",
        "d.svg",
        "e.psd",
        "notes.md",
        "data",
        "Thumbs.db",
        ".DS_Store",
        "._a.png",
    ):
        (folder / name).write_bytes(b"x")
    save_image(folder / "__MACOSX/a.png")
    save_image(folder / ".git/a.png")
    (folder / "g.jpg").mkdir()
    save_image(folder / "g.jpg/inside.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "big.png").write_bytes(b"\0" * 200_000)
    summary = convert(folder, max_bytes=100_000)
    assert summary.counts == {
        "rows": 9,
        "images": 7,
        "captioned": 0,
        "failed_corrupt_image": 1,
        "failed_file_too_large": 1,
        "skipped_hidden_file": 5,
        "skipped_no_image_file": 2,
        "skipped_unsupported_format": 5,
    }
    artifact = Output(str(folder.parent / "out"), "download_shards", "test")
    findings = Findings("download_shards", "test", artifact.uri, "done")
    inspect(artifact, findings, InspectionContext(lambda name: None, 4))
    shown = findings.to_json()["tables"]["skipped entries of the source"]
    assert [(row["cause"], row["entries"], row["first one"]) for row in shown] == [
        ("hidden_file", 5, ".DS_Store"),
        ("no_image_file", 2, "data"),
        ("unsupported_format", 5, "a.heic"),
    ]
    assert "unsupported_format: 5 (.heic 2, .jp2 1, .psd 1, .svg 1; first: a.heic)" in summary.notes["skipped"]
    assert "no_image_file: 2 (.md 1, no suffix 1; first: data)" in summary.notes["skipped"]
    assert accounted(summary, folder) == (7, 2, 12)


def test_what_is_no_file_is_never_opened(folder):
    save_image(folder / "ok.png")
    os.mkfifo(folder / "fifo.png")
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "ok.txt")
    os.symlink("/dev/zero", folder / "zero.png")
    os.symlink(folder / "fifo", folder / "to_fifo.png")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening, contextlib.chdir(folder):
        listening.bind("socket.png")
    began = time.monotonic()
    summary = convert(folder)
    assert time.monotonic() - began < 100
    assert summary.counts == {
        "rows": 5,
        "images": 1,
        "captioned": 0,
        "failed_not_a_file": 3,
        "failed_outside_folder": 1,
        "skipped_not_a_file": 2,
    }
    assert accounted(summary, folder) == (1, 4, 2)


def test_links_out_of_the_folder_are_counted_and_not_read(folder):
    outside = folder.parent / "outside"
    save_image(outside / "secret.png")
    (outside / "secret.txt").write_text("secret")
    (outside / "metadata.csv").write_text("file_name,caption\nok.png,secret\n")
    save_image(folder / "ok.png")
    save_image(folder / "named.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "named.txt").symlink_to(outside / "secret.txt")
    (folder / "metadata.csv").symlink_to(outside / "metadata.csv")
    (folder / "linked").symlink_to(outside)
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {"named.png": (), "ok.png": ()}
    assert summary.counts["failed_outside_folder"] == 1
    assert summary.counts["failed_missing_file"] == 1
    assert summary.counts["skipped_outside_folder"] == 3
    assert accounted(summary, folder) == (2, 2, 3)


def test_a_file_address_does_not_follow_links_either(folder):
    save_image(folder.parent / "outside/secret.png")
    save_image(folder / "ok.png")
    (folder / "link.png").symlink_to(folder.parent / "outside/secret.png")
    summary = convert(folder, source={"path": f"file://{folder}"})
    assert (summary.counts["images"], summary.counts["failed_outside_folder"]) == (1, 1)


def test_linked_subfolders_are_entered_once_and_only_within_the_folder(folder):
    save_image(folder / ".store/x.png", color=(40, 0, 0))
    save_image(folder / "real/y.png", color=(80, 0, 0))
    (folder / "linked").symlink_to(folder / ".store")
    (folder / "again").symlink_to(folder / "real")
    (folder / "real/loop").symlink_to(folder)
    (folder / "file.png").symlink_to(folder / "real/y.png")
    summary = convert(folder)
    assert list(captions_by_url(folder.parent / "out")) == ["file.png", "linked/x.png", "real/y.png"]
    assert [red_of(sample) for sample in samples(folder.parent / "out")] == [80, 40, 80]
    assert summary.counts["skipped_linked_folder"] == 2
    assert accounted(summary, folder) == (3, 0, 3)


def test_names_that_are_no_text_are_counted_with_an_escaped_example(folder):
    save_image(folder / "ok ñ 🎨.png")
    good = (folder / "ok ñ 🎨.png").read_bytes()
    for name in (b"\xff\xfe.png", b"line\nbreak.png", b"\x1b[31m.png", b"\xff.dat"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(good)
    summary = convert(folder)
    assert summary.counts == {"rows": 4, "images": 1, "captioned": 0, "failed_bad_name": 3, "skipped_bad_name": 1}
    assert set(lost_by_url(folder.parent / "out")) == {"\\udcff\\udcfe.png", "line\\nbreak.png", "\\x1b[31m.png"}
    assert "bad_name: 1 (.dat 1; first: \\udcff.dat)" in summary.notes["skipped"]
    assert accounted(summary, folder) == (1, 3, 1)


@contextlib.contextmanager
def as_nobody(folder):
    """Work as a user whom permissions bind, where the tests run as root, to whom they mean nothing."""
    if os.geteuid() != 0:
        yield
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_names_that_are_shown_alike_are_entries_of_their_own(folder):
    save_image(folder / "fine.png")
    names = ["a\x01.jpg", "a\\x01.jpg", "a\x02.jpg", "\\x01\x02.jpg", "\x01\\x02.jpg", "\x01\x02.jpg"]
    upper = "/".join(["u" * 200] * 5)  # so that shown names are cut
    names += [f"{upper}/a\x01.jpg", f"{upper}/b\x01.jpg", f"{upper}/{'c' * 100}.jpg"]
    (folder / upper).mkdir(parents=True)
    for number, name in enumerate(names):
        save_image(folder / "image.jpg", color=(number, 0, 0))
        (folder / "image.jpg").rename(folder / name)
    for _ in range(2):  # names stay what they are
        table, record = list_folder(FolderSource(kind="folder", path=folder))
        assert record.found == table.num_rows == len(set(table["url"].to_pylist())) == len(names) + 1
        assert record.failures["bad_name"].count == 7
        shutil.rmtree(folder.parent / "out", ignore_errors=True)
        assert accounted(convert(folder), folder) == (3, 7, 0)


def test_what_may_not_be_read_is_counted():
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "images"
        for name in ("ok.png", "closed.png", "shut/a.png", "text.png"):
            save_image(folder / name)
        (folder / "text.txt").write_text("x")
        convert(folder)  # all that is imported is by now
        with as_nobody(Path(made)):
            for name in ("closed.png", "text.txt", "shut"):
                (folder / name).chmod(0)
            summary = download({"kind": "folder", "path": folder}, Path(made) / "out" / "again")
            (folder / "shut").chmod(0o700)
    causes = ("failed_unreadable_file", "failed_bad_caption_file", "skipped_unreadable_file")
    assert [summary.counts.get(cause) for cause in causes] == [1, 1, 1]


def test_a_large_folder_is_listed_in_linear_time(folder):
    for parts in (5, 20):
        made = folder / str(parts)
        for part in range(parts):
            (made / str(part)).mkdir(parents=True)
            for index in range(1000):
                (made / f"{part}/{index}.png").touch()
        listed = {"file_name": [f"{part}/{index}.PNG" for part in range(parts) for index in range(1000)]}
        write_metadata(made / "metadata.csv", listed | {"caption": listed["file_name"]})

    def listing(parts: int) -> None:
        table, record = list_folder(FolderSource(kind="folder", path=str(folder / str(parts))))
        assert (len(table), record.found) == (parts * 1000, parts * 1000 + 1)

    before = threading.active_count()
    assert_linear(listing, 5)
    assert threading.active_count() < before + 15
