"""The queue of a run's records: in order, nothing lost, nothing of what was sent kept, and bounded in memory."""

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.outbox import spool as module
from pipeline.outbox.spool import Spool
from stages.storage.artifact import Output


def open_spool(folder: Path) -> Spool:
    return Spool(Output(str(folder), "store", ""))


def lines(count: int, first: int = 0) -> list[bytes]:
    return [b'{"line": %d}\n' % index for index in range(first, first + count)]


def drain(spool: Spool, most: int = 7) -> list[bytes]:
    found: list[bytes] = []
    while head := spool.head(most):
        found += head
        spool.sent(len(head))
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_what_is_sent_at_once_never_reaches_the_store(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "s")
    for line in lines(20):
        spool.put(line)
    assert drain(spool) == lines(20)
    spool.keep(0)
    assert spool.close() == 0
    assert not (tmp_path / "s").exists()


def test_what_waits_is_written_and_goes_when_it_is_sent(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for line in lines(5):
        spool.put(line)
    spool.keep(60)
    assert files(tmp_path) == []  # it is fresh
    spool.keep(0)
    (file,) = tmp_path.glob("*.jsonl")
    assert file.read_bytes() == b"".join(lines(5))
    assert file.stat().st_mode & 0o777 == 0o600
    assert drain(spool) == lines(5)
    spool.keep(0)
    assert files(tmp_path) == []


def test_the_next_process_goes_on_with_what_was_left(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    for line in lines(6):
        first.put(line)
    first.keep(0)
    first.sent(len(first.head(2)))
    assert first.close() == 4
    first.sent(4)  # a call that comes back after the end changes nothing
    second = open_spool(tmp_path)
    assert second.count() == 4
    for line in lines(3, first=6):
        second.put(line)
    assert drain(second) == lines(7, first=2)
    assert second.close() == 0
    assert files(tmp_path) == []


def test_a_killed_process_leaves_what_it_had_kept(tmp_path: Path) -> None:
    killed = open_spool(tmp_path)
    for line in lines(4):
        killed.put(line)
    killed.keep(0)
    killed.sent(len(killed.head(3)))  # and never says so
    assert drain(open_spool(tmp_path)) == lines(4)


def test_what_is_set_aside_waits_behind_the_others(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for line in lines(3):
        spool.put(line)
    spool.set_aside()
    assert drain(spool) == lines(2, first=1)
    spool.keep(0)
    assert len(files(tmp_path)) == 1
    spool.requeue()
    assert drain(spool) == lines(1)
    assert spool.close() == 0
    assert files(tmp_path) == []


def test_long_waiting_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 300)
    spool = open_spool(tmp_path)
    for line in lines(60):
        spool.put(line)
        spool.keep(0)
    assert spool._in_memory() < 600
    assert drain(spool) == lines(60)


def test_where_the_store_takes_nothing_memory_is_bounded_and_the_loss_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 140)
    spool = open_spool(tmp_path / "x")
    (tmp_path / "x").write_text("no folder")
    for line in lines(20):
        spool.put(line)
    with pytest.raises(OSError, match=r"."):
        spool.keep(0)
    assert spool.lost == 9
    assert drain(spool) == lines(11)


def test_a_file_that_was_removed_by_hand_is_no_error(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.put(lines(1)[0])
    spool.close()
    second = open_spool(tmp_path)
    next(tmp_path.glob("*.jsonl")).unlink()
    second.put(lines(2)[1])
    assert drain(second) == lines(2)[1:]


def test_what_is_sent_while_a_file_before_it_is_written_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 30)
    found: list[bytes] = []

    class SlowStore(Output):
        def write_bytes(self, name: str, content: bytes, *, mode: int | None = None) -> None:
            found.extend(drain(spool))
            super().write_bytes(name, content, mode=mode)

    spool = Spool(SlowStore(str(tmp_path), "store", ""))
    for line in lines(9):
        spool.put(line)
    spool.keep(0)
    assert found == lines(9)
    assert spool.close() == 0
    assert files(tmp_path) == []


def test_a_file_whose_writing_seemed_to_fail_is_removed_too(tmp_path: Path) -> None:
    class Store(Output):
        def write_bytes(self, name: str, content: bytes, *, mode: int | None = None) -> None:
            super().write_bytes(name, content, mode=mode)
            raise TimeoutError  # the reply was lost

    spool = Spool(Store(str(tmp_path), "store", ""))
    spool.put(lines(1)[0])
    with pytest.raises(TimeoutError):
        spool.keep(0)
    assert drain(spool) == lines(1)
    assert spool.close() == 0
    assert files(tmp_path) == []


def test_files_that_an_absent_store_did_not_remove_are_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 30)
    is_away = True

    class Store(Output):
        def remove(self, name: str) -> None:
            if is_away:
                raise ConnectionError
            super().remove(name)

    spool = Spool(Store(str(tmp_path), "store", ""))
    for line in lines(9):
        spool.put(line)
    spool.keep(0)
    assert drain(spool) == lines(9)
    with pytest.raises(ConnectionError):
        spool.keep(0)
    is_away = False
    assert spool.close() == 0
    assert files(tmp_path) == []


def test_three_threads_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    spool, over = open_spool(tmp_path), threading.Event()
    found: list[bytes] = []
    total = lines(2000)

    def send() -> None:
        while len(found) < len(total):
            head = spool.head(13)
            found.extend(head)
            spool.sent(len(head)) if head else None

    def keep() -> None:
        while not over.is_set():
            spool.keep(0)

    threads = [threading.Thread(target=work) for work in (send, keep)]
    for thread in threads:
        thread.start()
    for line in total:
        spool.put(line)
    threads[0].join(30)
    over.set()
    threads[1].join(30)
    assert found == total
    assert spool.close() == 0
    assert files(tmp_path) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["put", "send", "keep", "aside", "requeue", "kill", "close"]), max_size=40))
def test_whatever_happens_every_line_is_sent(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Of a killed process, lines that were not kept are lost, and lines that were sent may be sent again."""
    folder = tmp_path_factory.mktemp("spool")
    spool, sent, put = open_spool(folder), set[bytes](), 0
    for step in steps:
        if step == "put":
            spool.put(lines(1, first=put)[0])
            put += 1
        elif step == "send":
            head = spool.head(2)
            sent |= set(head)
            spool.sent(len(head)) if head else None
        elif step == "aside" and spool.head(1):
            spool.set_aside()
        elif step == "requeue":
            spool.requeue()
        elif step == "keep":
            spool.keep(0)
        elif step == "kill":
            spool.keep(0)
            spool = open_spool(folder)
        elif step == "close":
            spool.close()
            spool = open_spool(folder)
    spool.requeue()
    assert sent | set(drain(spool)) == set(lines(put))
    spool.close()
    assert files(folder) == []
