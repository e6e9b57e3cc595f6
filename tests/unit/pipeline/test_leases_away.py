"""Leases in a folder whose file server is away for a moment: the calls to the system fail, as those of NFS do."""

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Superseded
from pipeline.leases import Leases, LeaseTimes
from stages.contract.errors import LeaseLost
from stages.storage.lease_files import lease_files
from stages.storage.leases import Fence, Holder
from stages.storage.patience import waiting_for

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


def test_a_file_that_another_machine_has_deleted_is_gone_as_nfs_says_it(
    held: Leases, mount: Mount, tmp_path: Path
) -> None:
    take_over(tmp_path)
    mount.fail(errno.ESTALE, ("utime", "open"), "/1.json")
    with pytest.raises(Superseded, match="night-8"):
        held.check(fresh=True)
    with pytest.raises(LeaseLost, match="night-8"):
        fence_of(held).check()
