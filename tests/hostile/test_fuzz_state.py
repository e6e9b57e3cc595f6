"""The fuzzing's supervisor reads what a child is doing while the child writes it, thousands of times a second."""

import multiprocessing
import time
from pathlib import Path

from tests.fuzz.child import State


def _write(path: Path, seconds: float) -> None:
    state, end, number = State(path), time.time() + seconds, 1
    while time.time() < end:
        number += 1
        state.write(float(number), number, number)


def test_read_while_written_is_never_half_of_it(tmp_path: Path) -> None:
    """Half a state has no seconds of the processor: taken for a whole one, it ends a child as one that hangs."""
    path = tmp_path / "state"
    State(path).write(1.0, 1, 1)
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(path, 1.0))
    writer.start()
    reader, seen = State(path), set()
    while writer.is_alive():
        begun, used, target, number = reader.read()
        assert begun == target == number
        assert used > 0
        seen.add(number)
    writer.join()
    assert len(seen) > 10, "nothing was written while it was read"


def test_nothing_written_yet_is_nothing_running(tmp_path: Path) -> None:
    assert State(tmp_path / "state").read() == (0.0, 0.0, 0, 0)


def test_another_that_opens_it_reads_the_newest_and_writes_on(tmp_path: Path) -> None:
    State(tmp_path / "state").write(5.0, 2, 7)
    other = State(tmp_path / "state")
    assert other.read()[0] == 5.0
    other.write(0.0, 2, 8)
    assert State(tmp_path / "state").read()[2:] == (2, 8)
