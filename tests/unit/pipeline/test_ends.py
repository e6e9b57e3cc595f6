"""How commands end from outside: the words and the exit code of each signal, and of a Python without the packages."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.losses import MemoryKills
from cluster.rank_link import REPLACE, Sign
from cluster.rank_signs import RankSigns
from cluster.signals import signals_held_back
from cluster.training import TrainGroup
from pipeline.ends import heeding_signals, in_time
from pipeline.errors import Interrupted

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("number", "words"), [(signal.SIGTERM, "ended by SIGTERM; what was finished is kept"),
                                               (signal.SIGHUP, "ended by SIGHUP; what was finished is kept"),
                                               (signal.SIGINT, "interrupted; what was finished is kept")])  # fmt: skip
def test_each_signal_has_its_words_and_code(number: int, words: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=words) as caught, heeding_signals():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_is_held_back_stays_so_where_another_thread_takes_the_signal(number: int) -> None:
    """As a library's thread does, which was started before: Python then calls the handler in the main thread."""
    over = threading.Event()
    other = threading.Thread(target=over.wait, daemon=True)
    other.start()
    done: list[str] = []

    def work() -> None:
        with heeding_signals():
            with signals_held_back():
                os.kill(os.getpid(), number)
                time.sleep(0.2)
                done.append("held back")
            time.sleep(10)
            done.append("not interrupted")

    with pytest.raises(Interrupted) as caught:
        work()
    over.set()
    assert done == ["held back"]
    assert caught.value.exit_code == 128 + number


def test_a_command_may_have_words_of_its_own() -> None:
    with pytest.raises(Interrupted, match=r"^interrupted; job 7 goes on$"), heeding_signals():
        raise KeyboardInterrupt("job 7 goes on")


def test_what_this_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with heeding_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_takes_too_long_is_left_to_itself() -> None:
    over, done = threading.Event(), threading.Event()

    def work() -> None:
        over.wait(60)
        done.set()

    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not done within 0\.2 s"):
        in_time(0.2, work)
    assert time.monotonic() - begun < 50
    over.set()
    assert done.wait(60)
    assert in_time(60, lambda: 3) == 3
    with pytest.raises(ValueError, match="of its own"):
        in_time(60, lambda: int("of its own"))


def test_a_python_without_the_packages_is_named() -> None:
    """As where `ray` was started outside the virtual environment."""
    words = [sys.executable, "-S", "-m", "pipeline", "run", "x.yaml"]
    done = subprocess.run(words, cwd=ROOT, env={"PATH": "/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"corgi: {sys.executable} has no package '")
    assert ".venv/bin/ray start" in done.stderr
    assert "Traceback" not in done.stderr


class Board:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: dict[str, Any] = {}

    def post(self, topic: str, notice: Any) -> None:
        self.posted[topic] = notice


def test_ranks_that_fall_silent_are_reported_and_those_that_stand_still_are_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    board = Board()
    group = TrainGroup(heartbeat_timeout=0.0, stage_timeout=1000.0)
    signs = RankSigns(group, board, MemoryKills("here"))  # type: ignore[arg-type]
    signs.note(Sign(1, "node7", 4242, steps=3, memory_kills=0, machine="node7"))
    signs.check()
    signs.check()
    assert caplog.text.count("rank 1 (process 4242, node node7) gave no sign of life") == 1
    assert board.posted == {}
    signs.group = TrainGroup(heartbeat_timeout=1000.0, stage_timeout=0.0)
    signs.check()
    assert board.posted == {REPLACE: True}
    with caplog.at_level(logging.WARNING):
        signs.note_stack(1, "in all_reduce")
    assert caplog.records[-1].attachment == "in all_reduce"  # type: ignore[attr-defined]
