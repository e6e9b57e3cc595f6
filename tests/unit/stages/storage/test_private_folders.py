"""Folders of one user alone: made 0700, found again, and refused where others could enter or replace them."""

import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.contract.errors import InputFault
from stages.storage.cache import FOLDER, LocalCache, cache_folder
from stages.storage.private_folders import folder_in_temporary, private_folder

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as /tmp is: everybody may write, and delete only what is theirs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv(FOLDER, raising=False)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_cache_is_made_for_this_user_alone_under_a_name_that_nobody_can_guess(temporary: Path) -> None:
    old = os.umask(0)
    try:
        folder = cache_folder()
    finally:
        os.umask(old)
    assert folder.parent == temporary
    assert mode(folder) == 0o700
    start, _, end = folder.name.rpartition("-")
    assert start == f"corgi-cache-{os.geteuid()}"
    assert len(end) >= 8
    assert LocalCache.of_this_machine().folder == folder  # found again, by every process of the user


def test_many_processes_at_once_find_one_folder(temporary: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: folder_in_temporary("x", "key"), range(64)))
    assert folder_in_temporary("x", "key") in found
    assert len(list(temporary.iterdir())) == 1


def test_what_others_prepared_is_passed_over(temporary: Path, tmp_path: Path) -> None:
    prefix = f"corgi-cache-{os.geteuid()}-"
    (temporary / f"{prefix}0000").symlink_to(tmp_path)
    (temporary / f"{prefix}1111").write_text("a file")
    (temporary / f"{prefix}2222").mkdir()
    (temporary / f"{prefix}2222").chmod(0o777)
    if os.geteuid() == 0:
        (temporary / f"{prefix}3333").mkdir(mode=0o700)
        os.chown(temporary / f"{prefix}3333", NOBODY, NOBODY)
    folder = cache_folder()
    assert folder.name.removeprefix(prefix) not in {"0000", "1111", "2222", "3333"}
    assert list(folder.iterdir()) == []


def test_a_temporary_folder_in_which_others_may_rename_is_refused(temporary: Path) -> None:
    temporary.chmod(0o777)
    with pytest.raises(InputFault, match=r"storage\.cache: .* can be written by others"):
        cache_folder()


def test_a_temporary_folder_that_is_not_there_is_refused(temporary: Path) -> None:
    temporary.rmdir()
    with pytest.raises(InputFault, match=r"storage\.cache: .*tmp cannot be used \(No such file"):
        cache_folder()


@pytest.mark.parametrize("bits", [0o755, 0o770, 0o701, 0o777, 0o1777])
def test_a_named_folder_that_others_can_enter_is_refused(bits: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(InputFault, match=rf"can be entered by others \(mode {bits:04o}\)"):
        private_folder(folder, "storage.cache")


def test_a_named_folder_is_made_with_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_a_link_of_this_user_leads_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    assert private_folder(tmp_path / "link" / "x", "key") == tmp_path / "real" / "x"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputFault, match=r"key: .*circle"):
        private_folder(tmp_path / "circle", "key")


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputFault, match="file"):
            private_folder(path, "key")


@as_root
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    for name in ("theirs", "above"):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, NOBODY, NOBODY)
    (tmp_path / "link").symlink_to(tmp_path)
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    for path, words in {"theirs": "belongs to", "above/mine": "who could replace", "link/x": "is a link"}.items():
        with pytest.raises(InputFault, match=words):
            private_folder(tmp_path / path, "key")


def test_a_parent_that_everybody_may_write_is_refused_unless_sticky(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(InputFault, match="can be written by others"):
        private_folder(tmp_path / "open" / "mine", "key")
    (tmp_path / "open").chmod(0o1777)
    assert private_folder(tmp_path / "open" / "mine", "key").is_dir()
