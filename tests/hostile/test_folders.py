"""Folders of images as strangers make them: every name is an image, a counted failure or a counted skip."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from stages.contract.errors import FailureCause, InputFault
from stages.contract.findings import Findings, InspectionContext
from stages.download_shards.config import DownloadShardsConfig, FolderSource
from stages.download_shards.inspect import inspect
from stages.download_shards.sources.folder import list_folder
from stages.storage.artifact import Output
from tests.factories import save_image
from tests.growth import assert_linear
from tests.hostile.downloads import captions_by_url, download, lost_by_url, red_of, rows, samples, source_record


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


def convert(folder, **options):
    source = {"kind": "folder", "path": folder} | options.pop("source", {})
    return download(source, folder.parent / "out", **options)


def accounted(summary, folder):
    """Return the numbers of images, failures and skips, which together are all that the source holds."""
    counts, found = summary.counts, source_record(folder.parent / "out")
    failed = sum(count for name, count in counts.items() if name.startswith("failed_"))
    skipped = sum(count for name, count in counts.items() if name.startswith("skipped_"))
    assert found.found == counts["images"] + failed + skipped + sum(found.used.values())
    return counts["images"], failed, skipped


# ---- captions and metadata


def write_metadata(path, rows_of):
    frame = pd.DataFrame(rows_of)
    match path.suffix.lower():
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".parquet":
            frame.to_parquet(path)


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.TSV", "metadata.jsonl", "METADATA.parquet"])
def test_several_rows_of_a_file_keep_all_their_captions_in_order(folder, name):
    for file in ("a.png", "b.png", "c.png"):
        save_image(folder / file)
    listed = {
        "file_name": ["b.png", "a.png", "b.png", "b.png", "c.png"],
        "caption": ["007", "NA", "3.10", "True", ""],
        "license": ["x", "y", "z", "z", "w"],
    }
    write_metadata(folder / name, listed)
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {"a.png": ("NA",), "b.png": ("007", "3.10", "True"), "c.png": ()}
    assert rows(folder.parent / "out")["license"].tolist() == ["y", "x", "w"]  # of the first row
    assert accounted(summary, folder) == (3, 0, 0)


def test_a_row_may_name_its_file_as_others_write_it(folder):
    files = ["dot.png", "absolute.png", "sub/back.png", "Case.PNG", "000123.jpg", "stem.jpeg", "f/000045.png"]
    nfd = unicodedata.normalize("NFD", "é.png")
    for file in [*files, nfd]:
        save_image(folder / file)
    named = {
        "./dot.png": "dot.png",
        f"{folder}/absolute.png": "absolute.png",
        "sub\\back.png": "sub/back.png",
        "case.png": "Case.PNG",
        unicodedata.normalize("NFC", "é.png"): nfd,
        "123": "000123.jpg",
        "stem": "stem.jpeg",
        " x/../f/000045.png ": "f/000045.png",
    }
    write_metadata(folder / "metadata.csv", {"file_name": list(named), "caption": list(named)})
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {file: (name,) for name, file in sorted(named.items())}
    assert accounted(summary, folder) == (8, 0, 0)


def test_what_a_row_may_mean_several_files_by_is_counted_and_not_guessed(folder):
    for file in ("a.png", "A.png", "same.png", "same.jpg", "7.png", "07.png", "ok.png"):
        save_image(folder / file)
    names = ["a.PNG", "same", "007", "", "gone.png", "no such", "../out.png", "/etc/passwd", "ok.png", "./ok.png"]
    write_metadata(folder / "metadata.csv", {"file_name": names, "caption": [f"c{n}" for n in range(len(names))]})
    summary = convert(folder)
    out = folder.parent / "out"
    lost = lost_by_url(out)
    assert lost["a.PNG"] == "the row names no single file: A.png, a.png"
    assert lost["same"] == "the row names no single file: same.jpg, same.png"
    assert lost["007"].startswith("the row names no single file: ")
    assert {name: summary.counts[f"failed_{name}"] for name in ("unmatched_row", "missing_file", "outside_folder")} == {
        "unmatched_row": 5,
        "missing_file": 1,
        "outside_folder": 2,
    }
    assert captions_by_url(out)["ok.png"] == ("c8", "c9")
    assert "unmatched_row: 5 (first: " in summary.notes["lost before reading"]
    assert accounted(summary, folder) == (7, 8, 0)


def test_the_caption_of_a_missing_file_does_not_go_to_one_whose_name_differs_in_case_alone(folder):
    for file in ("a.png", "Other.png"):
        save_image(folder / file)
    names = ["A.png", "a.png", "other.png"]
    write_metadata(folder / "metadata.csv", {"file_name": names, "caption": ["of the lost", "of a", "of other"]})
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {"a.png": ("of a",), "Other.png": ("of other",)}
    assert lost_by_url(folder.parent / "out") == {"A.png": FailureCause.MISSING_FILE.messages[0]}
    assert accounted(summary, folder) == (2, 1, 0)


def test_metadata_in_subfolders_names_files_relative_to_itself(folder):
    for file in ("train/a.png", "train/deep/b.png", "test/a.png", "plain/c.png"):
        save_image(folder / file)
    write_metadata(folder / "train/metadata.jsonl", {"file_name": ["a.png", "deep/b.png"], "caption": ["ta", "tb"]})
    write_metadata(folder / "test/metadata.csv", {"file_name": ["a.png"], "caption": ["xa"], "year": [1901]})
    (folder / "plain/c.txt").write_text("beside")
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {
        "plain/c.png": ("beside",),
        "test/a.png": ("xa",),
        "train/a.png": ("ta",),
        "train/deep/b.png": ("tb",),
    }
    assert source_record(folder.parent / "out").used == {"caption files": 1, "metadata files": 2}
    assert accounted(summary, folder) == (4, 0, 0)


def test_two_metadata_files_of_a_folder_and_missing_columns_are_refused_by_name(folder):
    save_image(folder / "s/a.png")
    write_metadata(folder / "s/metadata.csv", {"file_name": ["a.png"], "caption": ["x"]})
    write_metadata(folder / "s/Metadata.jsonl", {"file_name": ["a.png"], "caption": ["x"]})
    with pytest.raises(InputFault, match=r"holds s/Metadata\.jsonl and s/metadata\.csv: one in a folder is allowed"):
        convert(folder)
    (folder / "s/Metadata.jsonl").unlink()
    write_metadata(folder / "s/metadata.csv", {"file": ["a.png"], "caption": ["x"]})
    with pytest.raises(InputFault, match=r"s/metadata\.csv has no column 'file_name' \(nearest: file\)"):
        convert(folder)


def test_caption_files_are_found_in_any_case_and_their_damage_is_counted(folder):
    for file in "abcdefghijk":
        save_image(folder / f"{file}.png")
    (folder / "a.TXT").write_text("upper")
    (folder / "B.Txt").write_text("other case")
    (folder / "c.txt").write_bytes(b"\xef\xbb\xbfmark")
    (folder / "d.txt").write_text("wide ñ", encoding="utf-16")
    (folder / "e.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "f.json").write_text(r'{"caption": "half \ud83d"}')
    (folder / "g.json").write_text("[" * 100_000)
    (folder / "h.json").write_text('{"caption": {"en": "a dog"}}')
    (folder / "i.txt").write_bytes(b"a\0b")
    (folder / "j.json").write_text(json.dumps({"captions": ["one", 2]}))
    (folder / "k.txt").write_text("long " * 300_000)
    (folder / "orphan.txt").write_text("no image")
    summary = convert(folder)
    found = captions_by_url(folder.parent / "out")
    assert {name: found[name] for name in ("a.png", "b.png", "c.png", "d.png")} == {
        "a.png": ("upper",),
        "b.png": ("other case",),
        "c.png": ("mark",),
        "d.png": ("wide ñ",),
    }
    assert len(found["k.png"][0]) == 5 * 300_000 - 1
    assert summary.counts["failed_bad_caption_file"] == 6
    assert "captions are texts or lists of texts" in lost_by_url(folder.parent / "out")["h.png"]
    assert summary.notes["skipped"] == "caption_without_image: 1 (.txt 1; first: orphan.txt)"
    assert accounted(summary, folder) == (5, 6, 1)


def test_the_encoding_is_that_of_the_source(folder):
    save_image(folder / "é.png")
    (folder / "é.txt").write_bytes("caf\xe9".encode("latin-1"))
    convert(folder, source={"encoding": "latin-1"})
    assert captions_by_url(folder.parent / "out") == {"é.png": ("café",)}
    with pytest.raises(ValueError, match="no encoding of texts has this name"):
        DownloadShardsConfig(source={"kind": "folder", "path": str(folder), "encoding": "zip"})


# ---- names and files


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


def test_a_damaged_row_of_the_metadata_costs_itself_alone(folder):
    for file in ("a.png", "b.png", "c.png"):
        save_image(folder / file)
    (folder / "metadata.csv").write_text('file_name,caption\na.png,"open\nb.png,b\nc.png\n')
    summary = convert(folder)
    assert captions_by_url(folder.parent / "out") == {"a.png": (), "b.png": ("b",), "c.png": ()}
    assert summary.counts["failed_bad_row"] == 2
    assert "line 2: a quote is not closed" in str(lost_by_url(folder.parent / "out"))
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a"}\n{"file_name": "b\\u0000.png"}\n[')
    summary = download({"kind": "folder", "path": folder}, folder.parent / "again")
    assert summary.counts["failed_bad_row"] == 2
    assert captions_by_url(folder.parent / "again")["a.png"] == ("a",)


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
