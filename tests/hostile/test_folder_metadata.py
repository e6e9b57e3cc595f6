"""Captions of folders as strangers give them: in metadata files and beside the images, right, counted or refused."""

import json
import unicodedata

import pytest

from stages.contract.errors import FailureCause, InputFault
from stages.download_shards.config import DownloadShardsConfig
from tests.factories import save_image
from tests.hostile.downloads import captions_by_url, download, lost_by_url, rows, source_record
from tests.hostile.folders import accounted, convert, write_metadata


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


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
