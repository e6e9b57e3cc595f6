"""Who may read a file, and that it is on the disk before it has its name."""

import contextlib
import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.storage.artifact import Output
from stages.storage.publishing import _claim, umask, write_new, write_whole


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_other_users_of_a_shared_folder_read_what_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    assert umask() == mask
    output = Output(str(tmp_path / "store/a"), "train_prior", "f0")
    output.write_json("plain.json", {})
    with output.writing("weights.safetensors") as path:
        save_file({"a": torch.zeros(2)}, path)
    with output.writing("by-rename.bin") as path, tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as own:
        os.replace(own.name, path)  # as libraries do, whose temporary files only their owner reads
    output.write_bytes("secret.json", b"{}", mode=0o600)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store/a").iterdir()}
    usual = 0o666 & ~mask
    assert modes == {
        "plain.json": usual, "weights.safetensors": usual, "by-rename.bin": usual, "secret.json": 0o600 & ~mask
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "store/a").stat().st_mode) == 0o777 & ~mask


def test_a_file_is_on_the_disk_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the numbers of the files, in the order of the calls: a machine that goes down leaves no empty file."""
    calls: list[tuple[str, int]] = []
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        sync(handle)
        calls.append(("sync", os.fstat(handle).st_ino))

    def renamed(source: Path, target: Path) -> None:
        calls.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    output = Output(str(tmp_path / "store/a"), "train_prior", "f0")
    output.write_json("plain.json", {"a": 1})
    with output.writing("weights.safetensors") as path:
        save_file({"a": torch.zeros(2)}, path)
    output.finish_unit("0000", {"rows": 1})
    files = [path for path in (tmp_path / "store/a").rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        own, folder = path.stat().st_ino, path.parent.stat().st_ino
        at = calls.index(("rename", own))
        assert ("sync", own) in calls[:at], path
        assert ("sync", folder) in calls[at:], path


@contextlib.contextmanager
def almost_full(left: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new.bin"
    with almost_full(5), pytest.raises(OSError, match="too large") as caught:
        write_new(file, b"0123456789")
    assert caught.value.filename == str(file)
    assert list(tmp_path.iterdir()) == []
    assert write_new(file, b"first")
    assert not write_new(file, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["new.bin"]
    assert file.read_bytes() == b"first"


def test_for_one_of_several_writers_a_new_file_s_name_is_free(tmp_path: Path) -> None:
    def link(number: int) -> bool:
        return write_new(tmp_path / "linked", bytes([number]) * 1000)

    def claim(number: int) -> bool:
        own = tmp_path / f"own-{number}"
        own.write_bytes(bytes([number]) * 1000)
        return _claim(own, tmp_path / "claimed")

    with ThreadPoolExecutor(8) as pool:
        for write, name in ((link, "linked"), (claim, "claimed")):
            found = list(pool.map(write, range(32)))
            assert found.count(True) == 1
            assert (tmp_path / name).read_bytes() == bytes([found.index(True)]) * 1000


def test_what_cannot_be_written_whole_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file, link = tmp_path / "kept.html", tmp_path / "link.html"
    file.write_text("earlier")
    file.chmod(0o640)
    link.symlink_to(file)
    with almost_full(5), pytest.raises(OSError, match="too large") as caught:
        write_whole(link, b"0123456789")
    assert caught.value.filename == str(file)
    assert file.read_text() == "earlier"
    write_whole(link, b"0123456789")
    assert file.read_bytes() == b"0123456789"
    assert (link.is_symlink(), stat.S_IMODE(file.stat().st_mode)) == (True, 0o640)
    assert {path.name for path in tmp_path.iterdir()} == {"kept.html", "link.html"}


def test_what_is_no_file_is_written_as_it_is() -> None:
    write_whole(Path(os.devnull), b"gone")
    assert Path(os.devnull).is_char_device()
