"""Leases between drivers: who waits, who takes over and when, and that nothing of the one before counts after that."""

import dataclasses
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.attention import AttentiveClock
from pipeline.errors import Superseded, UsageError
from pipeline.leases import Leases, LeaseTimes, _Wait
from pipeline.store import Store
from stages.contract.errors import LeaseLost
from stages.storage.artifact import Output
from stages.storage.lease_files import lease_files
from stages.storage.leases import Fence, Holder, holder_of
from tests.factories import make_record

NAME = "embed_clip-f0"
SHORT = LeaseTimes(timeout=1.0)


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., Leases]:
    """Make drivers of one shared folder, each of a machine of its own."""

    def make(machine: str, times: LeaseTimes = SHORT) -> Leases:
        said: list[str] = []
        leases = Leases(str(tmp_path), tmp_path / machine, run=f"run-of-{machine}", times=times, report=said.append)
        leases.said = said  # type: ignore[attr-defined]
        return leases

    return make


def _sleeping_holder(store: Path, name: str = NAME, **changes: object) -> Fence:
    """Leave the lease of a driver that does not renew it."""
    holder = dataclasses.replace(Holder("t0", "night-7", 41, "smoke-1", "yesterday", timeout=1.0), **changes)  # type: ignore[arg-type]
    address = f"{store}/leases/{name}"
    assert lease_files(address).create(1, holder.to_bytes())
    return Fence(address, 1, holder.token, name)


def test_a_lease_is_taken_renewed_and_released_to_the_next_at_once(driver, tmp_path: Path) -> None:
    files = lease_files(f"{tmp_path}/leases/{NAME}")
    for number in (1, 2):
        with driver("a", LeaseTimes(timeout=60)).holding([NAME]) as held:
            held.fence(NAME).check()
            assert (files.newest(), held.has_waited) == (number, False)
            before = files.read(number)
            held.check(fresh=True)
            assert files.read(number)[1] != before[1]
            assert os.listdir(f"{tmp_path}/leases/{NAME}") == [f"{number}.json"]
        assert holder_of(files, number).released


def test_who_is_alive_is_waited_for_and_then_named(driver) -> None:
    with (
        driver("a").holding([NAME]),
        pytest.raises(UsageError) as caught,
        driver("b", LeaseTimes(1, wait=0)).holding([NAME]),
    ):
        pass  # fmt: skip
    assert f"{NAME}: is being made by corgi on " in str(caught.value)
    assert f"(process {os.getpid()}, run run-of-a) since 20" in str(caught.value)
    assert "alive" in str(caught.value)


def test_a_wait_ends_with_the_release(driver) -> None:
    first, second = driver("a"), driver("b")
    with first.holding([NAME, "other"]):
        first.release(NAME)
        with second.holding([NAME]):
            assert not second.has_waited


@pytest.mark.parametrize("wrong_by", [-1e6, 0.0, 1e6])
def test_an_expired_lease_is_taken_over_by_the_observers_clock_alone(driver, tmp_path: Path, wrong_by: float) -> None:
    stale = _sleeping_holder(tmp_path, since="2049-13-77")
    stale.check()
    file = tmp_path / "leases" / NAME / "1.json"
    os.utime(file, (time.time() + wrong_by,) * 2)  # the clock of the holder's machine, or of the file server
    begun, second = time.monotonic(), driver("b")
    with second.holding([NAME]) as held:
        assert 1.0 <= time.monotonic() - begun < 60
        assert second.has_waited
        held.fence(NAME).check()
        with pytest.raises(
            LeaseLost, match=r"taken over by corgi on .* run run-of-b\) since .*: nothing that this one"
        ):
            stale.check()
    assert "night-7 (process 41, run smoke-1) since 2049-13-77" in second.said[0]
    assert "waiting until it is done" in second.said[0]
    assert second.said[1].endswith("whose lease has expired")


def test_all_leases_of_a_driver_that_is_gone_expire_in_the_time_of_one(driver, tmp_path: Path) -> None:
    names = [f"stage-{number}" for number in range(5)]
    stale = [_sleeping_holder(tmp_path, name, timeout=2.0) for name in names]
    begun, second = time.monotonic(), driver("b")
    with second.holding([*names, "free"]) as held:
        assert 2.0 <= time.monotonic() - begun < (len(names) - 1) * 2.0
        assert all(held.fence(name).number == 2 for name in names)
        assert held.fence("free").number == 1
        for one in stale:
            with pytest.raises(LeaseLost):
                one.check()
    assert [said.partition(":")[0] for said in second.said if said.endswith("has expired")] == names


def test_the_time_in_which_the_observer_was_held_up_does_not_expire_a_lease(tmp_path: Path) -> None:
    """A driver of the same machine was held up, too, and renews its lease when it may go on."""
    hand = 0.0
    _sleeping_holder(tmp_path)
    wait = _Wait(NAME, f"{tmp_path}/leases/{NAME}", SHORT, print, AttentiveClock(SHORT.timeout / 2, lambda: hand))
    holder = holder_of(wait.files, 1)
    assert not wait.is_over(1, holder)
    for hand in (1000.0, 1000.25):
        assert not wait.is_over(1, holder), hand
    hand = 1000.5
    assert wait.is_over(1, holder), "a second has been observed"


def test_a_driver_of_a_longer_timeout_does_not_take_its_own_pause_for_the_silence_of_one_of_a_shorter(
    tmp_path: Path,
) -> None:
    hand = 0.0
    _sleeping_holder(tmp_path, timeout=60.0)
    times = LeaseTimes(timeout=3600.0)
    wait = _Wait(NAME, f"{tmp_path}/leases/{NAME}", times, print, AttentiveClock(times.most_pause, lambda: hand))
    holder = holder_of(wait.files, 1)
    for hand in (0.0, 600.0, 605.0):
        assert not wait.is_over(1, holder), hand


def test_what_is_observed_early_is_still_waited_for_while_its_driver_lives(driver, tmp_path: Path) -> None:
    _sleeping_holder(tmp_path, "stage-0")
    with (
        driver("a", LeaseTimes(timeout=1.0)).holding(["stage-1"]) as living,
        pytest.raises(UsageError, match=r"stage-1: is being made by .* which is alive"),
        driver("b", LeaseTimes(1.0, wait=2)).holding(["stage-0", "stage-1"]),
    ):
        pass
    living.check()


def test_a_driver_of_this_machine_that_is_gone_is_not_waited_for(driver, tmp_path: Path) -> None:
    later = driver("b", LeaseTimes(timeout=600))
    stale = _sleeping_holder(tmp_path, lock=later._holder.lock)
    with later.holding([NAME]) as held:
        assert not held.has_waited
        with pytest.raises(LeaseLost):
            stale.check()
    assert later.said[0].endswith("which is gone")


def test_a_driver_that_lives_keeps_its_lock(driver, tmp_path: Path) -> None:
    """Two drivers on one machine with one folder of locks: the second waits although the lease names the lock."""
    with (
        driver("a").holding([NAME]),
        pytest.raises(UsageError, match="alive"),
        driver("a", LeaseTimes(1, wait=0)).holding([NAME]),
    ):
        pass


def test_a_lease_whose_lock_another_driver_had_is_not_that_of_one_that_is_gone(driver, tmp_path: Path) -> None:
    """Of several that wait on one machine for another machine's lease, one alone has the lock, and another is first."""
    (tmp_path / "a").mkdir()
    waiting = FileLock(tmp_path / "a" / f"{NAME}.lock")
    waiting.acquire()
    with driver("a", LeaseTimes(timeout=60)).holding([NAME]) as first:
        waiting.release()
        with pytest.raises(UsageError, match="alive"), driver("a", LeaseTimes(1, wait=0)).holding([NAME]):
            pass
        first.check(fresh=True)


def test_a_lease_that_was_released_and_taken_again_is_not_lost(driver) -> None:
    with driver("a", LeaseTimes(timeout=60)).holding([NAME]) as leases:
        before = leases._held[NAME]
        leases.release(NAME)
        leases.take(NAME)
        leases._renew(before)  # as the thread that renews does, which listed the leases before
        leases.check()


NEVER_OVER = Holder("t", timeout=float("nan")).to_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"\x00{", b"[]", b'{"token": 3}', b'{"token": "t", "host": ["x"]}', NEVER_OVER]
)
def test_a_damaged_lease_expires_too(driver, tmp_path: Path, content: bytes) -> None:
    assert lease_files(f"{tmp_path}/leases/{NAME}").create(4, content)
    second = driver("b")
    with second.holding([NAME]) as held:
        assert held.fence(NAME).number == 5


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_any_content_is_a_holder_or_none(content: bytes) -> None:
    assert Holder.parse(content) is None
    holder = Holder("t", "h", 3, beat=5)
    assert Holder.parse(holder.to_bytes()) == holder


def test_a_full_disk_leaves_no_lease_that_nobody_can_read(tmp_path: Path) -> None:
    files = lease_files(f"{tmp_path}/leases/{NAME}")
    assert files.create(1, b"{}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, limits[1]))  # as a disk with five bytes left
    try:
        with pytest.raises(OSError, match="File too large"):
            files.create(2, b"ten bytes.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "leases" / NAME).iterdir()] == ["1.json"]
    assert files.create(2, b"ten bytes.")


def test_who_comes_late_cannot_take_a_number_that_was_passed(driver, tmp_path: Path) -> None:
    """Another read that number 1 had expired, took and lost number 2 meanwhile: its file is deleted, and free."""
    _sleeping_holder(tmp_path)
    files, late = lease_files(f"{tmp_path}/leases/{NAME}"), driver("c")
    assert files.create(3, b"{}")
    files.delete_below(3)
    assert not late._make(files, 2, Holder("t9"))
    assert files.newest() == 3
    assert os.listdir(f"{tmp_path}/leases/{NAME}") == ["3.json"]


def test_what_was_being_written_at_the_takeover_does_not_appear(driver, tmp_path: Path) -> None:
    """The writer sleeps after its check and before the rename: the new holder's sweep has deleted what it renames."""
    stale = Output(f"{tmp_path}/artifacts/embed_clip/f0", "embed_clip", "f0", fence=_sleeping_holder(tmp_path))
    stale.write_bytes("a.bin", b"before")
    writing = stale.writing("b.bin")
    partial = writing.__enter__()
    partial.write_bytes(b"late")
    with driver("b").holding([NAME]) as held:
        output = Output(stale.uri, "embed_clip", "f0", fence=held.fence(NAME))
        output.sweep()
        with pytest.raises(LeaseLost):
            writing.__exit__(None, None, None)
        assert not partial.exists()  # so that the rename of one that had checked before fails
        for write in (
            lambda: stale.finish_unit("00000", {}),
            lambda: stale.remove("a.bin"),
            stale.sweep,
            lambda: stale.write_plan(3),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert (output.glob("*"), output.done_units()) == (["a.bin", "units"], {})
        output.finish_unit("00000", {"images": 1})
        assert output.done_units() == {"00000": {"images": 1}}


def test_a_superseded_driver_is_stopped_and_leaves_the_record_alone(tmp_path: Path, caplog) -> None:
    store, record = Store(str(tmp_path)), make_record("smoke-1", status="running")
    artifact = store.artifact("embed_clip", "f0")
    with store.leasing("smoke-1", [artifact], LeaseTimes(60), lambda text: None):
        store.write_run(record)
        store.check_leases(fresh=True)
        for folder in (tmp_path / "leases").iterdir():
            files = lease_files(str(folder))
            assert files.create(2, Holder("other", "night-8", 3).to_bytes())
            files.delete_below(2)
        with pytest.raises(Superseded, match=r"taken over by corgi on night-8 \(process 3\).*end it and run again"):
            store.check_leases(fresh=True)
        store.write_run(record.model_copy(update={"status": "failed"}))
        with pytest.raises(LeaseLost):
            store.output("embed_clip", "f0").write_bytes("a", b"")
    assert "the record of the run is not written" in caplog.text
    assert store.read_run("smoke-1").status == "running"
    assert Superseded.exit_code == 4
    assert sorted(path.name for path in (tmp_path / "leases").rglob("*.json")) == ["2.json", "2.json"]


def test_other_stores_decide_by_reading_again(tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}"
    leases = Leases(address, tmp_path, run="r", times=LeaseTimes(60), report=lambda text: None)
    with leases.holding(["one"]):
        fence = leases.fence("one")
        assert (fence.is_conditional, fence.is_remote, fence.number) == (False, True, 1)
        leases.check(fresh=True)
        fence.check()
        fs, path = fsspec.filesystem("memory"), f"/{tmp_path.name}/leases/one"
        assert not lease_files(f"{address}/leases/one").create(1, b"other")
        fs.pipe_file(f"{path}/2.json", Holder("other", "night-8").to_bytes())
        fence.check(fresh=False)  # records and files of units go by a reading of the last ten seconds
        with pytest.raises(LeaseLost, match="night-8"):
            fence.check()
        with pytest.raises(LeaseLost, match="night-8"):
            fence.check(fresh=False)
        with pytest.raises(Superseded):
            leases.check(fresh=True)
        assert Holder.parse(fs.cat_file(f"{path}/1.json")).beat  # not renewed after that, and not deleted by who came
