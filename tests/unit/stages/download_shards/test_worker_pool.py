"""The pool of threads with fetch functions of the test: order, politeness, retries, the watchdog."""

import collections
import signal
import subprocess
import sys
import threading
import time

import pytest

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import FetchFault, without_credentials
from stages.download_shards.http.worker_pool import MOST_UNREACHED, fetch_all


def limits(**options):
    usual = {"threads": 8, "per_host": 8, "retries": 0, "retry_wait": 0.0, "max_seconds": 5.0}
    return DownloadShardsConfig(source={"kind": "scenes", "num_images": 1}, **(usual | options))


def urls(num, hosts=1):
    return [f"http://h{index % hosts}/{index}" for index in range(num)]


def faults(fetched):
    """Return the fault of each address as text, or None."""
    return {number: str(found) if isinstance(found, ItemFault) else None for number, found in fetched}


def test_every_address_has_one_result():
    fetched = list(fetch_all(lambda url: url.encode(), urls(300, hosts=7), limits(per_host=2)))
    assert sorted(number for number, _ in fetched) == list(range(300))
    assert all(content.decode().endswith(f"/{number}") for number, content in fetched)


def test_no_host_has_more_than_its_limit_at_a_time_and_others_go_on():
    lock = threading.Lock()
    active: collections.Counter[str] = collections.Counter()
    highest: collections.Counter[str] = collections.Counter()

    def fetch(url):
        host = url.split("/")[2]
        with lock:
            active[host] += 1
            highest[host] = max(highest[host], active[host])
        time.sleep(0.01)
        with lock:
            active[host] -= 1
        return b""

    list(fetch_all(fetch, urls(60, hosts=3), limits(threads=12, per_host=2)))
    assert highest == {"h0": 2, "h1": 2, "h2": 2}


def test_only_failures_that_may_pass_are_tried_again():
    seen: collections.Counter[str] = collections.Counter()

    def fetch(url):
        seen[url] += 1
        number = int(url.rpartition("/")[2])
        if number % 3 == 0:
            raise FetchFault(FailureCause.OTHER, "gone")
        if number % 3 == 1 and seen[url] < 3:
            raise FetchFault(FailureCause.OTHER, "busy", transient=True)
        return b"x"

    found = faults(fetch_all(fetch, urls(9), limits(retries=2)))
    assert found == {number: "gone" if number % 3 == 0 else None for number in range(9)}
    assert [seen[url] for url in urls(9)] == [1, 3, 1] * 3


def test_what_hangs_is_given_up_along_with_what_waits_for_it():
    release = threading.Event()

    def fetch(url):
        if url.endswith(("/2", "/3")):
            release.wait(60)
        return b"x"

    start = time.monotonic()
    found = dict(fetch_all(fetch, urls(6), limits(threads=4, max_seconds=1.0)))
    release.set()
    assert time.monotonic() - start < 45  # of the 60 s that they would last
    lost = {number: one.cause for number, one in found.items() if isinstance(one, ItemFault)}
    assert lost == {2: FailureCause.STALLED, 3: FailureCause.STALLED}


PAUSED = """
import time
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.worker_pool import fetch_all

def fetch(url):
    print("begun", flush=True)
    for _ in range(10):
        time.sleep(0.1)
    return b"x"

limits = {"threads": 1, "per_host": 1, "retries": 0, "max_seconds": 4.0}
config = DownloadShardsConfig(source={"kind": "scenes", "num_images": 1}, **limits)
print(list(fetch_all(fetch, ["http://h/0"], config)), flush=True)
"""


def test_the_pause_of_a_machine_is_no_time_of_an_address():
    with subprocess.Popen([sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(9.0)  # longer than to wait for one
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "[(0, b'x')]\n"


def unreached(**options):
    fault = FetchFault(FailureCause.TIMEOUT, **options)
    fault.is_unreached = True
    return fault


def test_a_host_that_is_away_costs_the_time_of_a_few_addresses():
    seen: collections.Counter[str] = collections.Counter()

    def fetch(url):
        host = url.split("/")[2]
        seen[host] += 1
        if host == "h0":
            time.sleep(0.05)
            raise unreached()
        return b"x"

    found = dict(fetch_all(fetch, urls(600, hosts=3), limits(threads=8, per_host=4, retries=2)))
    assert {number for number, one in found.items() if one != b"x"} == set(range(0, 600, 3))
    assert {one.cause for one in found.values() if isinstance(one, ItemFault)} == {FailureCause.TIMEOUT}
    assert MOST_UNREACHED <= seen.pop("h0") < MOST_UNREACHED + 4
    assert seen == {"h1": 200, "h2": 200}


def test_a_host_that_comes_back_is_asked_again_for_all():
    seen: collections.Counter[str] = collections.Counter()

    def fetch(url):
        seen["all"] += 1
        if seen["all"] <= 3 * MOST_UNREACHED:
            raise unreached(transient=True)
        return b"x"

    found = dict(fetch_all(fetch, urls(100), limits(threads=1, retries=3)))
    assert set(found.values()) == {b"x"}
    assert seen["all"] == 3 * MOST_UNREACHED + 100


def test_a_host_that_takes_few_connections_at_a_time_is_not_away():
    """Four at a time are served, and each other attempt fails after much longer than these take."""
    served, slots = threading.Semaphore(4), []

    def fetch(url):
        if not served.acquire(blocking=False):
            time.sleep(0.5)
            slots.append(url)
            raise unreached()
        time.sleep(0.01)
        served.release()
        return b"x"

    found = dict(fetch_all(fetch, urls(1000), limits(threads=16, per_host=16)))
    assert len(slots) > MOST_UNREACHED
    assert sum(one != b"x" for one in found.values()) == len(slots)


def test_the_other_ports_of_a_host_are_not_away():
    def fetch(url):
        if ":81/" in url:
            raise unreached()
        return b"x"

    listed = [f"http://h:{80 + index % 2}/{index}" for index in range(100)]
    found = dict(fetch_all(fetch, listed, limits(threads=1)))
    assert {number for number, one in found.items() if one == b"x"} == set(range(0, 100, 2))


def test_an_unexpected_error_costs_one_address():
    def fetch(url):
        if url.endswith("/1"):
            raise RuntimeError("http://user:secret@h")
        return b"x"

    assert faults(fetch_all(fetch, urls(3), limits())) == {0: None, 1: "network error: RuntimeError", 2: None}


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("http://u:p@h:1/x@y?z@", "http://h:1/x@y?z@"),
        ("http://u:p@q@h", "http://h"),
        ("http://h/a", "http://h/a"),
        ("//u:p@h/a", "//h/a"),
        ("no address", "no address"),
    ],
)
def test_credentials_are_taken_out(url, clean):
    assert without_credentials(url) == clean
