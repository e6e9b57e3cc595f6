"""The local cache of remote files: fetched once, again when the file has changed, least recently used deleted first."""

import contextlib
import fcntl
import multiprocessing
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from stages.contract.errors import ArtifactError
from stages.storage.cache import LocalCache

ROOT = "memory://test-cache"
HOUR = 3600


@pytest.fixture
def remote():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/test-cache", recursive=True)


def put(fs, name, content):
    fs.pipe_file(f"/test-cache/{name}", content)


def get(cache, fs, name, version="1"):
    return cache.get(fs, f"/test-cache/{name}", root=ROOT, name=name, version=version)


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_file_is_fetched_once_and_again_when_it_has_changed(remote, tmp_path):
    cache = LocalCache(tmp_path)
    put(remote, "a/b.bin", b"first")
    assert get(cache, remote, "a/b.bin").read_bytes() == b"first"
    put(remote, "a/b.bin", b"second")
    assert get(cache, remote, "a/b.bin").read_bytes() == b"first"  # the same version was asked for
    assert get(cache, remote, "a/b.bin", version="2").read_bytes() == b"second"


def test_files_of_one_root_lie_side_by_side_and_those_of_another_apart(remote, tmp_path):
    cache = LocalCache(tmp_path)
    for name in ("clip/config.json", "clip/model.bin"):
        put(remote, name, b"x")
    folder = get(cache, remote, "clip/config.json").parent
    assert get(cache, remote, "clip/model.bin").parent == folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    other = cache.get(
        remote, "/test-cache/clip/config.json", root="memory://other", name="clip/config.json", version="1"
    )
    assert other.parent != folder


def test_what_was_not_used_for_longest_goes_first_and_only_as_much_as_needed(remote, tmp_path):
    cache = LocalCache(tmp_path, limit=1000)
    paths = []
    for number in range(4):
        put(remote, str(number), bytes(240))
        paths.append(get(cache, remote, str(number)))
    for path, hours in zip(paths, (3, 4, 1, 2), strict=True):
        age(path, hours * HOUR)
    get(cache, remote, "1")  # used again: the youngest now
    put(remote, "4", bytes(240))
    get(cache, remote, "4")
    assert [path.exists() for path in paths] == [False, True, True, False]  # 900 bytes are left, at most
    assert int((tmp_path / "bytes").read_text()) == 720


def test_what_was_asked_for_lately_stays_whatever_the_limit(remote, tmp_path):
    cache = LocalCache(tmp_path, limit=100)
    for number in range(3):
        put(remote, str(number), bytes(240))
    paths = [get(cache, remote, str(number)) for number in range(3)]
    assert all(path.exists() for path in paths)
    for path in paths:
        age(path, HOUR)
    put(remote, "last", bytes(10))
    assert get(cache, remote, "last").exists()
    assert not any(path.exists() for path in paths)


def test_what_is_open_stays_readable_when_its_name_is_gone(remote, tmp_path):
    cache = LocalCache(tmp_path, limit=100)
    put(remote, "a", b"content" * 40)
    path = get(cache, remote, "a")
    with path.open("rb") as file:
        age(path, HOUR)
        put(remote, "b", bytes(200))
        get(cache, remote, "b")
        assert not path.exists()
        assert file.read() == b"content" * 40
    assert get(cache, remote, "a").read_bytes() == b"content" * 40


def test_what_a_killed_fetch_left_is_removed(remote, tmp_path):
    cache = LocalCache(tmp_path, limit=100)
    (tmp_path / "partial").mkdir()
    half = tmp_path / "partial" / uuid.uuid4().hex
    half.write_bytes(bytes(50))
    age(half, 2 * HOUR)
    put(remote, "a", bytes(200))
    get(cache, remote, "a")
    assert not half.exists()


def test_a_missing_file_leaves_nothing(remote, tmp_path):
    put(remote, "other", b"")
    with pytest.raises(FileNotFoundError):
        get(LocalCache(tmp_path), remote, "none")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


def fetch_many(folder: Path, source: Path, seed: int, faults: "multiprocessing.Queue[str]") -> None:
    """Ask for files in another order than the other processes, open each at once, and compare.

    Nobody makes a copy look old between another's asking and opening; no real minute passes there either.
    """
    cache, fs = LocalCache(folder, limit=20_000), fsspec.filesystem("file")
    ages = source.parent / "ages"
    for step in range(150):
        number = (seed * 7 + step * 11) % 30
        with locked(ages, fcntl.LOCK_SH):
            path = cache.get(fs, str(source / str(number)), root="r", name=str(number), version="1")
            content = path.read_bytes()
        if content != bytes([number]) * 2000:
            faults.put(f"{number} in {seed}")
        if step % 5 == 0:
            with locked(ages, fcntl.LOCK_EX), contextlib.suppress(FileNotFoundError):
                age(path, HOUR)  # so that it may be deleted by the next process that makes room
    faults.put("done")


def test_many_processes_fetch_use_and_delete_at_once(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    for number in range(30):
        (source / str(number)).write_bytes(bytes([number]) * 2000)
    spawn = multiprocessing.get_context("spawn")  # a fork has the locks that other tests' threads hold at that moment
    faults = spawn.Queue()
    processes = [spawn.Process(target=fetch_many, args=(folder, source, seed, faults)) for seed in range(3)]
    for process in processes:
        process.start()
    outcomes = [faults.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert outcomes == ["done"] * 3
    assert [process.exitcode for process in processes] == [0] * 3


def test_what_has_rotted_in_the_cache_is_fetched_anew_where_it_is_always_checked(remote, tmp_path):
    def check(path):
        if path.read_bytes() != b"whole":
            raise ArtifactError("other bytes")

    def read(name, *, always):
        path = f"/test-cache/{name}"
        return cache.get(remote, path, root=ROOT, name=name, version="1", check=check, always=always).read_bytes()

    cache = LocalCache(tmp_path)
    for name in ("a", "b"):
        put(remote, name, b"whole")
        get(cache, remote, name).write_bytes(b"rotte")
    assert read("a", always=False) == b"rotte"
    for _ in range(2):
        assert read("a", always=True) == b"whole"
    put(remote, "b", b"wrong")
    with pytest.raises(ArtifactError, match="other bytes"):
        read("b", always=True)
