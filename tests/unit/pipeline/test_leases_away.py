"""Leases in a folder whose file server is away for a moment: the calls to the system fail, as those of NFS do."""

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.attention import AttentiveClock
from pipeline.config.loading import load_config
from pipeline.errors import Superseded
from pipeline.experiment import Experiment
from pipeline.leases import Leases, LeaseTimes, _Wait
from stages.contract.errors import LeaseLost
from stages.storage.lease_files import lease_files
from stages.storage.leases import Fence, Holder, holder_of
from stages.storage.patience import patience_seconds, waiting_for

NAME = "embed_clip-f0"
CALLS = ("utime", "listdir", "open")
AWAY = 0.5  # seconds


class Mount:
    """What the system answers to calls in folders of leases: an error, by the name of the call, or what is there."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}
        self._where = ""

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            number = self._failing.get(name, 0)
            if number and self._where in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return function(path, *arguments, **options)

        return call

    def fail(self, number: int, calls: tuple[str, ...] = CALLS, where: str = "/leases/") -> None:
        self._failing, self._where = dict.fromkeys(calls, number), where

    def come_back(self) -> None:
        self._failing = {}

    def fail_for_a_while(self, number: int, calls: tuple[str, ...] = CALLS) -> None:
        self.fail(number, calls)
        threading.Timer(AWAY, self.come_back).start()


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Mount:
    mount = Mount()
    for module, name in ((os, "utime"), (os, "listdir"), (io, "open")):
        monkeypatch.setattr(module, name, mount.around(name, getattr(module, name)))
    return mount


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Leases]:
    """A driver that holds the lease, and renews it when it is asked to."""
    times = LeaseTimes(timeout=3600)
    with Leases(str(tmp_path), tmp_path / "a", run="a", times=times, report=print).holding([NAME]) as leases:
        yield leases


def fence_of(leases: Leases) -> Fence:
    fence = leases.fence(NAME)
    assert fence is not None
    return fence


def take_over(store: Path) -> None:
    files = lease_files(f"{store}/leases/{NAME}")
    assert files.create(2, Holder("other", "night-8").to_bytes())
    files.delete_below(2)


def test_a_lease_is_renewed_again_when_its_server_is_back(held: Leases, mount: Mount, tmp_path: Path) -> None:
    file = tmp_path / "leases" / NAME / "1.json"
    mount.fail(errno.ESTALE)
    held.check(fresh=True)
    mount.come_back()
    before = file.stat().st_mtime_ns
    held.check(fresh=True)
    assert file.stat().st_mtime_ns > before


def test_a_writer_waits_for_a_server_that_knows_no_file_for_a_moment(held: Leases, mount: Mount) -> None:
    mount.fail_for_a_while(errno.ESTALE)
    with waiting_for(1):
        fence_of(held).check()


@pytest.mark.parametrize(("number", "calls"), [(errno.EIO, ("listdir",)), (errno.ESTALE, CALLS)])
def test_who_was_superseded_learns_it_when_the_folder_can_be_read(
    held: Leases, mount: Mount, tmp_path: Path, number: int, calls: tuple[str, ...]
) -> None:
    take_over(tmp_path)
    mount.fail_for_a_while(number, calls)
    with waiting_for(1), pytest.raises(LeaseLost, match="night-8"):
        fence_of(held).check()
    mount.fail(number, calls)
    held.check(fresh=True)  # not known yet, and asked again at the next renewal
    mount.come_back()
    with pytest.raises(Superseded, match="night-8"):
        held.check(fresh=True)


def test_a_stale_handle_of_a_file_that_another_machine_has_deleted_is_a_lost_lease(
    held: Leases, mount: Mount, tmp_path: Path
) -> None:
    take_over(tmp_path)
    mount.fail(errno.ESTALE, ("utime", "open"), "/1.json")
    with pytest.raises(Superseded, match="night-8"):
        held.check(fresh=True)
    with pytest.raises(LeaseLost, match="night-8"):
        fence_of(held).check()


@pytest.fixture
def awaited(tmp_path: Path) -> Iterator[tuple[Experiment, Callable[[], None]]]:
    """An experiment of which another machine makes a stage, and what lets that go."""
    settings = [f"store={tmp_path / 'store'}", "storage.lease_timeout=1"]
    experiment = Experiment.open(load_config("configs/smoke.yaml", settings), "smoke.yaml")
    times, name = LeaseTimes(timeout=60), f"embed_clip-{experiment.plan.stages['embed_clip'].fingerprint}"
    with Leases(experiment.store.uri, tmp_path / "b", run="b", times=times, report=print).holding([name]) as other:
        yield experiment, lambda: other.release(name)


def test_who_waits_for_another_driver_waits_for_a_store_that_is_away_too(
    awaited: tuple[Experiment, Callable[[], None]], mount: Mount
) -> None:
    experiment, let_go = awaited
    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        mount.fail_for_a_while(errno.EIO)
        threading.Timer(2 * AWAY, let_go).start()

    with experiment.leased(report) as leased:
        assert len(said) == 1
        assert leased.undone()
    assert patience_seconds() == 0


def test_a_signal_ends_who_waits_for_another_driver_while_the_store_is_away(
    awaited: tuple[Experiment, Callable[[], None]], mount: Mount
) -> None:
    main, begun = threading.main_thread().ident, time.monotonic()
    assert main is not None
    timer = threading.Timer(AWAY, signal.pthread_kill, (main, signal.SIGINT))

    def report(text: str) -> None:
        mount.fail(errno.EIO)
        timer.start()

    try:
        with pytest.raises(KeyboardInterrupt), awaited[0].leased(report):
            pass
    finally:
        timer.cancel()
    mount.come_back()
    assert time.monotonic() - begun < 30


def test_the_time_in_which_the_store_was_away_is_not_that_of_what_was_read_after_it(
    tmp_path: Path, mount: Mount
) -> None:
    hand = [0.0]

    def come_back() -> None:
        hand[0] = 100.0
        mount.come_back()

    address = f"{tmp_path}/leases/{NAME}"
    assert lease_files(address).create(1, Holder("t", timeout=1.0).to_bytes())
    wait = _Wait(NAME, address, LeaseTimes(timeout=1.0), print, AttentiveClock(0.5, lambda: hand[0]))
    holder = holder_of(wait.files, 1)
    mount.fail(errno.EIO)
    threading.Timer(AWAY, come_back).start()
    with waiting_for(1):
        assert not wait.is_over(1, holder)
    for hand[0] in (100.25, 100.75):
        assert not wait.is_over(1, holder), hand
    hand[0] = 101.0
    assert wait.is_over(1, holder), "a second has been observed"
