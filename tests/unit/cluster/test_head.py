"""What happens when the head of a cluster cannot be reached any more; a TCP server stands for its control store."""

import socket
import subprocess
import sys
import time

import pytest

from cluster.errors import HeadLost
from cluster.head import Contact, check_head

BLOCKED = """
import signal, socket, sys, time
from cluster.head import Contact, last_words
from cluster.signals import LOSS

head = socket.create_server(("127.0.0.1", 0))
contact = Contact(f"127.0.0.1:{head.getsockname()[1]}", seconds=0.6)
with contact.watched(), last_words(lambda error: print(error, flush=True)):
    signal.pthread_sigmask(signal.SIG_BLOCK, [LOSS])  # as a call of Ray that cannot be interrupted
    head.close()
    time.sleep(60)
"""


def test_the_main_thread_is_interrupted_once_the_head_is_out_of_reach_for_too_long() -> None:
    head = socket.create_server(("127.0.0.1", 0))
    contact = Contact(f"127.0.0.1:{head.getsockname()[1]}", seconds=0.8)
    with pytest.raises(KeyboardInterrupt), contact.watched():  # noqa: PT012  what else the block does is the test
        time.sleep(1.5)
        check_head()
        closed = time.monotonic()
        head.close()
        time.sleep(30)
    assert 0.7 < time.monotonic() - closed < 5
    with pytest.raises(HeadLost, match=r"could not be reached for 1 s .*run the same command again"):
        contact.check()
    check_head()  # nothing is watched over any more


def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    head = socket.create_server(("127.0.0.1", 0))
    port = head.getsockname()[1]
    contact = Contact(f"127.0.0.1:{port}", seconds=6.0)
    with contact.watched():
        head.close()
        time.sleep(2.0)
        with socket.create_server(("127.0.0.1", port)):
            time.sleep(5.0)
            contact.check()


def test_a_process_whose_main_thread_waits_for_the_head_reports_its_last_words_and_ends() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 3, done.stderr
    assert "could not be reached for 1 s" in done.stdout


def test_a_head_that_was_never_reached_is_not_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    contact = Contact(f"127.0.0.1:{port}", seconds=0.4)
    with contact.watched():
        time.sleep(1.2)
        check_head()
