"""A search through all orders of the steps of tests/numerics/recovery_model.py.

What is searched for: a state in which an invariant is broken (:class:`Broken`), or from which a new driver that is left
alone does not come to the end.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.numerics.recovery_model import (
    NUMBERS,
    Broken,
    Protocol,
    State,
    Worker,
    driver_steps,
    first_state,
    held,
    newest,
    put,
    worker_steps,
)


def steps(protocol: Protocol, state: State) -> Iterator[State]:
    """Yield all states that may come next."""
    for i in range(protocol.starts):
        yield from driver_steps(protocol, state, i)
        yield from worker_steps(protocol, state, i)
        if state.drivers[i].step not in {"off", "gone"} and state.kills < protocol.kills:
            killed = state._replace(
                drivers=put(state.drivers, i, state.drivers[i]._replace(step="gone", seen=None)), kills=state.kills + 1
            )
            yield killed
            if state.workers[i].todo:
                yield killed._replace(workers=put(state.workers, i, Worker()))
    yield let_time_pass(state)


def let_time_pass(state: State) -> State:
    """Let a timeout pass for all who do not take a step in it."""
    drivers = tuple(
        one._replace(seen=one.seen._replace(is_old=True)) if one.seen is not None else one for one in state.drivers
    )
    return state._replace(old=(True,) * len(state.old), drivers=drivers)


def check_state(state: State) -> None:
    """Check that at most one driver can make writes count, by the leases as they are."""
    holders = [
        one.number
        for i, (one, worker) in enumerate(zip(state.drivers, state.workers, strict=True))
        if (one.step == "run" or worker.todo) and state.leases[one.number] == held(i)
    ]
    if len(holders) > 1:
        raise Broken(f"{len(holders)} drivers can make writes count")


def check_recovery(protocol: Protocol, state: State) -> None:
    """Check that a new driver comes to the end when all others are gone, however the store was left."""
    alone = replace(protocol, starts=1, kills=0)
    state = first_state(alone)._replace(
        leases=state.leases, old=state.old, data=state.data, records=state.records, is_done=state.is_done
    )
    for _ in range(60):
        if state.is_done and state.drivers[0].step == "gone":
            return
        after = [*driver_steps(alone, state, 0), *worker_steps(alone, state, 0)]
        moved = [one for one in after if one != state]
        state = moved[-1] if moved else let_time_pass(state)
    raise Broken("a new driver does not come to the end")


@dataclass(frozen=True)
class Searched:
    """How much was searched."""

    states: int
    steps: int
    endings: int


def search(protocol: Protocol, start: State | None = None) -> Searched:
    """Go through all orders of steps; raise Broken where an invariant does not hold."""
    first = start or first_state(protocol)
    seen, waiting, taken, stores = {first}, deque([first]), 0, set()
    while waiting:
        state = waiting.popleft()
        check_state(state)
        left = (state.leases, state.data, state.records, state.is_done)
        if left not in stores and newest(state) < NUMBERS:
            stores.add(left)
            check_recovery(protocol, state)
        for after in steps(protocol, state):
            taken += 1
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return Searched(len(seen), taken, len(stores))
