"""The protocol of docs/recovery.md as a machine of small steps; recovery_search.py tries all orders of them.

Each step is one write, one read or one passage of time of the real protocol, in its order. Up to three drivers come one
after another or at once (``MOST_ALIVE`` of them live); any may be killed between any two steps, alone or with its
worker, and any may sleep for as long as others take steps, so that no bound on a delay is assumed. A worker whose
driver was killed lives on, as one on another machine does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

Store = Literal["files", "objects"]
Work = Literal["units", "checkpoints"]
Mutation = Literal["none", "no check", "no sweep", "no deletion", "no condition", "wall clock", "no second reading"]

T = TypeVar("T")

MOST_ALIVE = 2
UNITS = 2
NUMBERS = 4


class Broken(Exception):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Protocol:
    """What is searched: the kind of store, the kind of work, how many drivers start, and what is left out."""

    store: Store
    work: Work
    starts: int = 3
    kills: int = 1
    mutation: Mutation = "none"


class Seen(NamedTuple):
    """What a driver that waits has read of a lease, and for how long it has not changed, by its own clock."""

    number: int
    is_old: bool
    has_changed: bool


class Driver(NamedTuple):
    """A driver: what it does next, and with which number."""

    step: str = "off"
    number: int = 0
    seen: Seen | None = None


class Worker(NamedTuple):
    """The process that writes: what is left to write, and how far it is with the first of it."""

    todo: tuple[tuple[str, int], ...] = ()
    micro: int = 0
    is_checked: bool = False
    """Whether it has found the lease to be held before, which objects of units go by for a while."""


class State(NamedTuple):
    """Everything: leases by number (absent, released, or whose; whether its last renewal is old), processes, files."""

    leases: tuple[str, ...]
    old: tuple[bool, ...]
    drivers: tuple[Driver, ...]
    workers: tuple[Worker, ...]
    temporary: tuple[bool, ...]
    data: tuple[int, ...]
    """By unit, the number of the lease that its file was written under; 0: there is none."""
    records: tuple[int, ...]
    is_done: bool
    kills: int
    readers: int
    """The highest number that has read what is done: from then on, nothing below it may come to count."""


def first_state(protocol: Protocol) -> State:
    """Return the empty store."""
    n = protocol.starts
    return State(
        ("absent",) * (NUMBERS + 1), (False,) * (NUMBERS + 1), (Driver(),) * n, (Worker(),) * n, (False,) * n,
        (0,) * UNITS, (0,) * UNITS, False, 0, 0,
    )  # fmt: skip


def late_taker(protocol: Protocol) -> State:
    """Return a store where a driver sleeps just before it makes file 2, while others have come to 3."""
    state = first_state(protocol)
    leases, drivers = put(state.leases, 3, held(1)), put(state.drivers, 0, Driver("create", 2))
    return read_state(protocol, state._replace(leases=leases, drivers=put(drivers, 1, Driver("read", 3))), 1)


def put(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return the values with another one at the index."""
    return (*values[:index], value, *values[index + 1 :])


def held(i: int) -> str:
    """Return the content of a lease's file: its holder's token."""
    return f"held by {i}"


def newest(state: State) -> int:
    """Return the highest number of which there is a file."""
    return max((n for n, status in enumerate(state.leases) if status != "absent"), default=0)


# ---- the driver


def driver_steps(protocol: Protocol, state: State, i: int) -> Iterator[State]:
    """Yield what may come of the driver's next step."""
    driver = state.drivers[i]
    match driver.step:
        case "off":
            alive = sum(other.step not in {"off", "gone"} for other in state.drivers)
            if alive < MOST_ALIVE and all(other.step != "off" for other in state.drivers[:i]):
                yield moved(state, i, "wait")
        case "wait":
            yield wait(protocol, state, i)
        case "create" if driver.number <= NUMBERS:
            yield create(protocol, state, i)
        case "verify":
            yield verify(protocol, state, i)
        case "delete" | "sweep":
            yield clear(protocol, state, i)
        case "read":
            yield read_state(protocol, state, i)
        case "run":
            yield from run(state, i)


def moved(state: State, i: int, step: str, **changes: Any) -> State:
    """Return the state with a driver at another step."""
    return state._replace(drivers=put(state.drivers, i, state.drivers[i]._replace(step=step, **changes)))


def create(protocol: Protocol, state: State, i: int) -> State:
    """Make the file of the number, which fails where it is there."""
    number = state.drivers[i].number
    if state.leases[number] != "absent":
        return moved(state, i, "wait", number=0, seen=None)
    made = state._replace(leases=put(state.leases, number, held(i)), old=put(state.old, number, False))
    return moved(made, i, "delete" if protocol.mutation == "no second reading" else "verify")


def verify(protocol: Protocol, state: State, i: int) -> State:
    """Read whether there is a higher number: the file of this one was deleted then, and is free to make by mistake."""
    number = state.drivers[i].number
    if newest(state) > number:
        return moved(state, i, "wait", number=0, seen=None)._replace(leases=put(state.leases, number, "absent"))
    return moved(state, i, "sweep" if protocol.mutation == "no deletion" else "delete")


def clear(protocol: Protocol, state: State, i: int) -> State:
    """Delete the leases of lower numbers, then the temporary files, one at a time."""
    driver = state.drivers[i]
    if driver.step == "delete":
        below = [n for n in range(1, driver.number) if state.leases[n] != "absent"]
        return state._replace(leases=put(state.leases, below[0], "absent")) if below else moved(state, i, "sweep")
    others = [j for j, is_there in enumerate(state.temporary) if is_there and j != i]
    if not others or protocol.store == "objects" or protocol.mutation == "no sweep":
        return moved(state, i, "read")
    return state._replace(temporary=put(state.temporary, others[0], False))


def run(state: State, i: int) -> Iterator[State]:
    """Renew the lease, or find it lost; release it when the work is done."""
    number = state.drivers[i].number
    if state.leases[number] != held(i):
        yield moved(state, i, "gone")
        return
    if state.old[number]:
        yield renew(state, number)
    if not state.workers[i].todo and state.is_done:
        yield moved(state, i, "gone")._replace(leases=put(state.leases, number, "released"))


def wait(protocol: Protocol, state: State, i: int) -> State:
    """Read the newest lease: it is free, or is observed, or has expired."""
    driver, number = state.drivers[i], newest(state)
    seen, status = driver.seen, state.leases[number]
    if number == 0 or status == "released":
        return state._replace(drivers=put(state.drivers, i, Driver("create", number + 1)))
    if protocol.mutation == "wall clock":  # the other's clock is behind by more than the timeout
        expired = True
    else:
        expired = seen is not None and seen == Seen(number, is_old=True, has_changed=False)
    if not expired:
        is_new = seen is None or seen.number != number or seen.has_changed
        now = Seen(number, is_old=False, has_changed=False) if is_new else seen
        return state._replace(drivers=put(state.drivers, i, driver._replace(seen=now)))
    if not state.old[number]:
        raise Broken("a lease is taken over that was renewed within its timeout")
    return state._replace(drivers=put(state.drivers, i, Driver("create", number + 1)))


def renew(state: State, number: int) -> State:
    """Change the mark of a lease, which those who observe it find at their next reading."""
    drivers = tuple(
        one._replace(seen=one.seen._replace(has_changed=True)) if one.seen and one.seen.number == number else one
        for one in state.drivers
    )
    return state._replace(old=put(state.old, number, False), drivers=drivers)


def read_state(protocol: Protocol, state: State, i: int) -> State:
    """Read what is done, and start the worker on the rest."""
    driver = state.drivers[i]
    if protocol.work == "units":
        left = [u for u in range(UNITS) if not state.records[u]]
        todo = [(kind, u) for u in left for kind in ("data", "record")]
    else:
        first = max((u + 1 for u in range(UNITS) if state.records[u]), default=0)
        todo = []
        for u in range(first, UNITS):
            todo += [("data", u), ("record", u)]
            todo += [("delete record", u - 1), ("delete data", u - 1)] if u else []
    end = () if state.is_done else (("done", 0),)
    return state._replace(
        drivers=put(state.drivers, i, driver._replace(step="run", seen=None)),
        workers=put(state.workers, i, Worker((*todo, *end))),
        readers=max(state.readers, driver.number),
    )


# ---- the worker


def worker_steps(protocol: Protocol, state: State, i: int) -> Iterator[State]:
    """Yield what may come of the next step of a driver's worker, which may live longer than the driver."""
    worker = state.workers[i]
    if worker.todo:
        on_files = protocol.store == "files" and not worker.todo[0][0].startswith("delete")
        yield from file_steps(protocol, state, i) if on_files else object_steps(protocol, state, i)


def micro(state: State, i: int, number: int, **changes: Any) -> State:
    """Return the state with a worker further with what it writes."""
    return state._replace(workers=put(state.workers, i, state.workers[i]._replace(micro=number, **changes)))


def checked(protocol: Protocol, state: State, i: int, after: State) -> State:
    """Return the state after a check of the lease: the worker stops where it is lost."""
    if protocol.mutation == "no check" or state.leases[state.drivers[i].number] == held(i):
        return after
    return lost(state, i)


def lost(state: State, i: int) -> State:
    """Return the state where a worker has stopped."""
    return state._replace(workers=put(state.workers, i, Worker()), temporary=put(state.temporary, i, False))


def file_steps(protocol: Protocol, state: State, i: int) -> Iterator[State]:
    """Yield the writing of a file: its whole content under a temporary name, the check, the rename."""
    match state.workers[i].micro:
        case 0:
            yield micro(state, i, 1)._replace(temporary=put(state.temporary, i, True))
        case 1:
            yield checked(protocol, state, i, micro(state, i, 2))
        case _ if state.temporary[i]:
            yield land(protocol, state, i)._replace(temporary=put(state.temporary, i, False))
        case _:
            yield lost(state, i)  # the rename finds no file where it was swept


def object_steps(protocol: Protocol, state: State, i: int) -> Iterator[State]:
    """Yield a deletion, or the writing of an object: the check, and then the request, of a record on a condition."""
    worker, (kind, unit) = state.workers[i], state.workers[i].todo[0]
    match worker.micro:
        case 0:
            yield checked(protocol, state, i, micro(state, i, 1, is_checked=True))
            if worker.is_checked and protocol.work == "units" and kind in {"data", "record"}:
                yield micro(state, i, 1)  # an earlier check is good for a while
        case 1 if kind == "record" and state.records[unit] and protocol.mutation != "no condition":
            yield lost(state, i) if state.records[unit] > state.drivers[i].number else micro(state, i, 2)
        case 2:  # a record of an earlier holder, which came late, is replaced
            yield checked(protocol, state, i, micro(state, i, 3))
        case _:
            yield land(protocol, state, i)


def land(protocol: Protocol, state: State, i: int) -> State:
    """Let the write come to be, and check what must hold of it."""
    worker, number = state.workers[i], state.drivers[i].number
    (kind, unit), after = worker.todo[0], Worker(worker.todo[1:], 0, worker.is_checked)
    is_late = number < state.readers
    if is_late and protocol.store == "files" and not kind.startswith("delete"):
        raise Broken(f"a {kind} of a driver that was superseded has come to count")
    state = state._replace(workers=put(state.workers, i, after))
    match kind:
        case "data":
            return state._replace(data=put(state.data, unit, number))
        case "record":
            check_record(protocol, state, unit, number)
            return state._replace(records=put(state.records, unit, number))
        case "delete record":
            if not any(state.records[unit + 1 :]):
                raise Broken("the newest checkpoint is deleted")
            if state.records[unit] > number:
                raise Broken("a checkpoint of a live holder is deleted")
            return state._replace(records=put(state.records, unit, 0))
        case "delete data":
            if state.records[unit] and not any(state.records[unit + 1 :]):
                raise Broken("the newest checkpoint has lost its files")
            return state._replace(data=put(state.data, unit, 0))
    if protocol.work == "units" and not all(state.records):
        raise Broken("the artifact is complete without all of its units")
    return state._replace(is_done=True)


def check_record(protocol: Protocol, state: State, unit: int, number: int) -> None:
    """Check that a unit comes to count once, and that its files are there."""
    there = state.records[unit]
    if there >= number or (there and protocol.store == "files"):
        raise Broken("a unit is counted twice")
    if not state.data[unit] and not any(state.records[unit + 1 :]):  # older checkpoints are read after newer ones
        raise Broken("a unit is counted whose file is not there")
    if protocol.store == "files" and state.data[unit] != number:
        raise Broken("a unit is counted whose file is another driver's")
