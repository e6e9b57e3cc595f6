"""Digests are remembered while a file stays as it is, and never when it has changed."""

import hashlib
import os
import sqlite3
import time

import pytest

from stages.contract.digests import content_digest, content_digests, file_digest, remembering, remote_checksums
from stages.contract.errors import InputFault
from stages.download_shards.config import FolderSource, HuggingfaceSource, UrlListSource, WebdatasetSource
from tests.factories import serve_folder

DAY = 86_400


def write(path, content, age=DAY):
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def remembered(memory):
    with sqlite3.connect(memory) as database:
        return dict(database.execute("SELECT path, sha256 FROM checked_digests"))


def test_a_file_is_read_once(tmp_path):
    memory, file = tmp_path / "digests.db", write(tmp_path / "a.bin", b"one")
    with remembering(memory):
        first = file_digest(file)
    assert first == hashlib.sha256(b"one").digest()
    assert remembered(memory) == {str(file): first}
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nobody had touched it
    with remembering(memory):
        assert file_digest(file) == first
    assert file_digest(file) == hashlib.sha256(b"two").digest()  # without a memory it is read


@pytest.mark.parametrize("damage", ["a flipped bit in a digest", "no database", "cut", "a page of zeros", "empty"])
def test_a_damaged_memory_costs_reading_anew_and_never_gives_another_digest(tmp_path, damage, caplog):
    memory = tmp_path / "digests.db"
    files = [write(tmp_path / f"{number}.bin", b"%d" % number) for number in range(200)]
    expected = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    with remembering(memory):
        assert [file_digest(file) for file in files] == expected
    content = bytearray(memory.read_bytes())
    match damage:
        case "a flipped bit in a digest":
            at = content.index(expected[7])
            content[at] ^= 1
        case "no database":
            content = bytearray(b"no database" * 1000)
        case "cut":
            content = content[: len(content) // 2]
        case "a page of zeros":
            content[4096:8192] = bytes(4096)
        case "empty":
            content = bytearray()
    memory.write_bytes(content)
    for _ in range(2):
        with remembering(memory):
            assert [file_digest(file) for file in files] == expected
    is_set_aside = damage in ("no database", "cut", "a page of zeros")
    assert (tmp_path / "digests.db.damaged").exists() == is_set_aside
    assert ("digests.db: found damage" in caplog.text) == is_set_aside
    assert len(remembered(memory)) == len(files)


@pytest.mark.parametrize("change", ["content", "time", "another file"])
def test_a_changed_file_is_read_again(tmp_path, change):
    memory, file = tmp_path / "digests.db", write(tmp_path / "a.bin", b"one")
    with remembering(memory):
        before = file_digest(file)
    stat = file.stat()
    if change == "content":
        file.write_bytes(b"more")
    elif change == "time":
        file.write_bytes(b"two")
    else:  # put in its place, as old and as large
        other = write(tmp_path / "b.bin", b"two")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.replace(file)
    with remembering(memory):
        assert file_digest(file) == hashlib.sha256(file.read_bytes()).digest() != before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    memory, file = tmp_path / "digests.db", write(tmp_path / "a.bin", b"one", age=0)
    with remembering(memory):
        file_digest(file)
    assert remembered(memory) == {}


def test_a_folder_has_the_digest_that_it_has_without_a_memory(tmp_path):
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    write(folder / "a.bin", b"one")
    write(folder / "b" / "c.bin", b"two")
    with remembering(tmp_path / "digests.db"):
        assert content_digest(folder) == content_digest(folder)
        inside = content_digest(folder)
    assert inside == content_digest(folder)


def test_what_is_hidden_in_a_model_is_no_part_of_it(tmp_path):
    folder = tmp_path / ".models" / "clip"  # hidden names above the folder are not its own
    (folder / "vision").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "vision" / "weights.safetensors").write_text("weights")
    before = content_digest(folder)
    expected = hashlib.sha256()
    for name, content in (("config.json", b"{}"), ("vision/weights.safetensors", b"weights")):
        expected.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    assert before == expected.hexdigest()
    for name in (".DS_Store", "vision/._weights.safetensors", "vision/Thumbs.db", ".gitattributes",
                 ".cache/huggingface/download/config.json.metadata", "vision/.cache/config.json"):  # fmt: skip
        for text in ("commit\n1700000000.1\n", "commit\n1700000099.9\n"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            assert content_digest(folder) == before
    (folder / "vision" / "weights.safetensors").write_text("others")
    assert content_digest(folder) != before


def test_where_nothing_can_be_kept_files_are_read(tmp_path):
    file = write(tmp_path / "a.bin", b"one")
    with remembering(file / "digests.db"):
        assert file_digest(file) == hashlib.sha256(b"one").digest()


def test_of_an_address_with_credentials_only_the_content_counts(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    write(folder / "list.csv", b"url\n")
    with serve_folder(folder) as base:
        keyed = [f"{base.replace('://', f'://u:{word}@')}/list.csv?token={word}" for word in ("c4nary1", "c4nary2")]
        first, second = (remote_checksums(address, "*") for address in keyed)
        assert first == second
        assert "c4nary" not in str(first)
        assert first[0][0] == "list.csv"
        assert remote_checksums(f"{base}/list.csv", "*")[0][0] == "list.csv"
        write(folder / "list.csv", b"url\nanother\n")
        assert remote_checksums(keyed[0], "*") != first


def sources(folder):
    path = str(folder)
    return [
        UrlListSource(kind="url_list", path=path, format="csv"),
        WebdatasetSource(kind="webdataset", path=path),
        HuggingfaceSource(kind="huggingface", path=folder),
        FolderSource(kind="folder", path=path),
    ]


def test_a_source_that_is_a_folder_counts_by_what_lies_in_it(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.csv").write_text("url\n")
    (tmp_path / "outside").write_text("one")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "fifo.csv")
    (folder / os.fsdecode(b"\xff.csv")).touch()
    for name in ("a.parquet", "a.tar", "a.jpg"):  # what the sources read
        (folder / name).write_text("1")
    before = [source.identity() for source in sources(folder)]
    (tmp_path / "outside").write_text("two")
    for name in ("notes.txt", ".DS_Store", "thumbs.db"):
        (folder / name).write_text("read by none")
    assert [source.identity() for source in sources(folder)] == before
    for name in ("a.csv", "a.parquet", "a.tar", "a.jpg"):
        (folder / name).write_text("url\nhttp://a/1\n")
    changed = [source.identity() for source in sources(folder)]
    assert all(one != other for one, other in zip(before, changed, strict=True))


def test_a_list_or_a_shard_alone_counts_by_its_content(tmp_path):
    (tmp_path / "a.csv").write_text("url\n")
    expected = hashlib.sha256(hashlib.sha256(b"url\n").digest()).hexdigest()
    for source in (UrlListSource(kind="url_list", path=str(tmp_path / "a.csv")),
                   WebdatasetSource(kind="webdataset", path=str(tmp_path / "a.csv"))):  # fmt: skip
        assert source.identity()["path"] == expected


def test_changes_below_a_path_that_is_no_utf8_are_noticed(tmp_path):
    memory, folder = tmp_path / "digests.db", tmp_path / os.fsdecode(b"w\xff")
    folder.mkdir()
    file = write(folder / "a.tar", b"one")
    for content in (b"one", b"another"):
        write(file, content)
        plain = [source.identity() for source in sources(folder)], content_digests(str(folder), ["a.tar"])
        for _ in range(2):
            with remembering(memory):
                found = [source.identity() for source in sources(folder)], content_digests(str(folder), ["a.tar"])
            assert found == plain
            assert found[1] == {"a.tar": hashlib.sha256(content).digest()}
            assert remembered(memory) == {os.fsencode(file): hashlib.sha256(content).digest()}


def test_a_file_of_a_model_may_have_a_name_that_is_no_utf8(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model" / os.fsdecode(b"\xff.json"), b"{}")
    expected = content_digest(tmp_path / "model")
    with remembering(tmp_path / "digests.db"):
        assert content_digest(tmp_path / "model") == expected


def test_what_sqlite_cannot_hold_is_read_each_time(tmp_path):
    memory, file = tmp_path / "digests.db", write(tmp_path / "a.bin", b"one")
    os.utime(file, ns=(0, 13_569_465_600 * 10**9))  # the year 2400
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(0, 13_569_465_600 * 10**9))
        with remembering(memory):
            assert file_digest(file) == hashlib.sha256(content).digest()
            assert file_digest(write(tmp_path / "b.bin", content)) == hashlib.sha256(content).digest()
        assert list(remembered(memory)) == [str(tmp_path / "b.bin")]
    assert not (tmp_path / "digests.db.damaged").exists()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 300, "../outside"])
def test_names_that_no_file_here_has_are_left_out(tmp_path, name):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "outside", b"one")
    assert content_digests(str(tmp_path / "folder"), [name]) == {}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_what_is_neither_file_nor_folder_has_no_digest(tmp_path, make):
    make(tmp_path / "model")
    with pytest.raises(InputFault, match=r"model: found a FIFO, a socket or a device: expected a file or a folder"):
        content_digest(tmp_path / "model")
