"""A child process that serves items: each limit costs the item in hand, and nothing of the child reaches the parent."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cluster.child_process import MOST_OUTSTANDING
from cluster.errors import IsolationFailed, ItemLimit
from cluster.isolated_child import Limits
from cluster.isolation import Isolated
from tests.unit.cluster import handlers

LIMITS = Limits(memory_bytes=100 << 20, cpu_seconds=0.5, wall_seconds=60.0)


@pytest.fixture
def isolated():
    made = Isolated(handlers.make, LIMITS)
    yield made
    made.close()


def pid_of(isolated):
    return isolated(b"echo x")[0]["pid"]


def test_one_child_serves_many_items(isolated):
    text = "ä" * 1_000_000
    assert isolated(f"echo {text}".encode()) == ({"pid": pid_of(isolated), "size": len(text)}, text.encode())
    assert isolated(b"echo ")[1] == b""
    assert pid_of(isolated) != os.getpid()


def test_the_factory_gets_its_settings():
    isolated = Isolated(handlers.make_from, LIMITS, {"word": "red"})
    assert isolated(b"\0\xff") == ({"word": "red"}, b"\0\xff")
    isolated.close()
    assert isolated(b"again") == ({"word": "red"}, b"again")
    isolated.close()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (b"spin 30", r"takes more than 0\.5 s of a processor"),
        (b"ignore 30", r"takes more than 0\.5 s of a processor"),
        (b"kill 11", "ended the process that read it by SIGSEGV"),
        (b"kill 9", "ended the process that read it by SIGKILL"),
        (b"leave sorry", r"ended the process that read it \(exit status 7: sorry\?\[2J\)"),
        (b"lie 1000000000000", "ended the process"),
        (b"chatter", "ended the process"),
    ],
)
def test_an_item_that_ends_the_child_costs_itself_alone(isolated, item, message):
    first = pid_of(isolated)
    with pytest.raises(ItemLimit, match=message):
        isolated(item)
    assert pid_of(isolated) != first


def test_memory_is_limited_and_the_child_goes_on(isolated):
    assert isolated(b"allocate 50")[0] == {"size": 50 << 20}
    first = pid_of(isolated)
    with pytest.raises(ItemLimit, match="needs more than 105 MB of memory"):
        isolated(b"allocate 200")
    assert pid_of(isolated) == first


def test_the_time_by_the_clock_is_limited():
    isolated = Isolated(handlers.make, Limits(memory_bytes=1 << 20, cpu_seconds=5.0, wall_seconds=3.0))
    first, begin = pid_of(isolated), time.monotonic()
    with pytest.raises(ItemLimit, match=r"takes more than 3 s"):
        isolated(b"sleep 100")
    assert time.monotonic() - begin < 60
    assert pid_of(isolated) != first
    isolated.close()


def test_the_time_of_a_processor_is_that_of_each_item(isolated):
    first = pid_of(isolated)
    for _ in range(4):
        isolated(b"spin 0.3")
    assert pid_of(isolated) == first


def test_a_child_that_nobody_uses_serves_the_next_to_ask_for_its_like():
    one = Isolated(handlers.make_from, LIMITS, {"word": "red"})
    one(b"")
    first = one._child.process.pid
    del one
    other = Isolated(handlers.make_from, LIMITS, {"word": "blue"})
    assert other(b"x") == ({"word": "blue"}, b"x")
    assert other._child.process.pid == first
    other.close()


def test_items_are_prefetched_and_replied_to_in_order(isolated):
    items = (b"echo %d" % n for n in range(20))
    replies = isolated.map(items)
    assert next(replies)[1] == b"0"
    assert next(items) == b"echo %d" % MOST_OUTSTANDING  # the first that was not read
    assert [body for _, body in replies] == [b"%d" % n for n in range(1, 20) if n != MOST_OUTSTANDING]


def test_large_items_are_not_prefetched(isolated):
    large = [b"echo " + bytes(20 << 20)] * 3
    items = iter(large)
    assert len(next(isolated.map(items))[1]) == 20 << 20
    assert len(list(items)) == 2


@pytest.mark.parametrize("bad", [b"kill 11", b"spin 30", b"leave sorry", b"lie 1000000000000", b"allocate 200"])
def test_an_item_that_ends_the_child_costs_none_of_those_handed_over_with_it(isolated, bad):
    items = [b"echo 0", bad, b"echo 2", bad, bad, b"echo 5", b"echo 6"]
    found = list(isolated.map(items))
    assert [isinstance(one, ItemLimit) for one in found] == [item == bad for item in items]
    assert [one[1] for one, item in zip(found, items, strict=True) if item != bad] == [b"0", b"2", b"5", b"6"]


def test_the_next_item_does_not_get_the_reply_to_one_that_nobody_waits_for(isolated):
    replies = isolated.map([b"echo 0", b"echo 1", b"echo 2", b"echo 3", b"echo 4"])
    next(replies)
    replies.close()
    assert isolated(b"echo x")[1] == b"x"


def test_a_child_killed_between_two_items_costs_none(isolated):
    first = pid_of(isolated)
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)
    assert pid_of(isolated) != first


def test_credentials_and_open_files_stay_with_the_parent(isolated, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        found, _ = isolated(b"environment")
    assert "AWS_SECRET_ACCESS_KEY" not in found["names"]
    assert "PATH" in found["names"]
    assert len(found["open"]) == 5 + MOST_OUTSTANDING  # standard ones, connection, listing itself; items
    assert isolated(b"stdin") == ({}, b"")


def test_large_files_and_core_dumps_are_not_written(isolated, tmp_path):
    with pytest.raises(IsolationFailed, match="failed: OSError"):
        isolated(f"write {tmp_path / 'file'}".encode())
    assert (tmp_path / "file").stat().st_size <= 1 << 20


def test_an_item_whose_child_is_killed_from_outside_is_read_by_another(isolated, tmp_path):
    assert isolated(f"kill_twice {tmp_path}/tried".encode()) == ({}, b"read")


@pytest.mark.parametrize(
    ("sign", "positions"),
    [(signal.SIGKILL, positions) for positions in [(0,), (2,), (5,), (0, 1), (1, 2, 5)]] + [(signal.SIGSTOP, (1,))],
)
def test_each_item_gets_its_own_reply_although_children_are_killed_between(tmp_path, sign, positions):
    """The others that a child had at hand are handed to the next one, each once, and in order."""
    isolated = Isolated(handlers.make, Limits(memory_bytes=100 << 20, cpu_seconds=5.0, wall_seconds=2.0))
    items = [
        f"signal_once {int(sign)} {tmp_path}/{number}" if number in positions else f"echo {number}"
        for number in range(6)
    ]
    outcomes = list(isolated.map(item.encode() for item in items))
    assert [outcome if isinstance(outcome, ItemLimit) else outcome[1] for outcome in outcomes] == [
        b"read" if number in positions else b"%d" % number for number in range(6)
    ]
    isolated.close()


def test_a_reply_to_another_item_is_none(isolated):
    taken, second, third = isolated.map([b"reply_twice ", b"echo second", b"echo third"])
    assert taken == ({"first": 1}, b"")  # the number is one that it may guess
    assert isinstance(second, ItemLimit)
    assert third[1] == b"third"


def test_what_a_child_writes_to_standard_error_is_not_kept_for_ever(isolated, capfd):
    for _ in range(20):
        isolated(b"noise")
    with pytest.raises(ItemLimit, match="exit status 7: sorry"):
        isolated(b"leave sorry")
    assert capfd.readouterr() == ("", "")


def test_a_child_may_be_started_before_the_first_item(isolated):
    before = set(psutil.Process().children())
    isolated.start()
    isolated.start()
    (started,) = set(psutil.Process().children()) - before
    assert pid_of(isolated) == started.pid


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (handlers.make_none, r"does not start: ModuleNotFoundError: no such reader: pip install it\?\[31m"),
        (handlers.end_at_start, "does not start: ended the process that read it .exit status 3"),
    ],
)
def test_a_child_that_does_not_start_is_no_fault_of_the_item(make, message):
    with pytest.raises(IsolationFailed, match=message):
        Isolated(make, LIMITS)(b"x")
    with pytest.raises(IsolationFailed, match=message):
        Isolated(make, LIMITS).start()


PARENT = """
import os, sys
from cluster.isolated_child import Limits
from cluster.isolation import Isolated
from tests.unit.cluster import handlers
isolated = Isolated(handlers.make, Limits(memory_bytes=1 << 20, cpu_seconds=2.0, wall_seconds=60.0))
print(isolated(b"echo x")[0]["pid"], flush=True)
if sys.argv[1] == "busy":
    isolated(b"spin 60")
elif sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["ended", "killed", "busy"])
def test_a_child_ends_with_its_parent(how):
    with subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        if how == "busy":
            time.sleep(0.3)
            parent.kill()
    deadline = time.monotonic() + 60
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def test_an_item_whose_process_somebody_stops_is_handed_to_another():
    isolated = Isolated(handlers.make, Limits(memory_bytes=1 << 20, cpu_seconds=5.0, wall_seconds=2.0))
    first = pid_of(isolated)
    os.kill(first, signal.SIGSTOP)
    assert pid_of(isolated) != first
    assert not _is_running(first)
    isolated.close()


PAUSED = """
from cluster.isolated_child import Limits
from cluster.isolation import Isolated
from tests.unit.cluster import handlers
isolated = Isolated(handlers.make, Limits(memory_bytes=1 << 20, cpu_seconds=30.0, wall_seconds=8.0))
print(isolated(b"echo x")[0]["pid"], flush=True)
isolated(b"spin 1")
print("read", flush=True)
"""


def test_the_pause_of_a_machine_is_no_time_of_the_item():
    with subprocess.Popen([sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, text=True) as parent:
        both = parent.pid, int(parent.stdout.readline())
        time.sleep(0.3)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in both:
                os.kill(pid, number)
            time.sleep(9.0 if number == signal.SIGSTOP else 0.0)  # longer than an item may take
        assert parent.stdout.read() == "read\n"


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
