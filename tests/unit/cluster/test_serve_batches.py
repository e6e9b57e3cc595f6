"""What waits for a served model: it is joined into full batches, bounded, and always answered."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster.errors import ModelFailed, QueueFull
from cluster.serve import Backend, ServeOptions

BATCH, QUEUE = 4, 8
SECONDS = 0.05  # that a batch takes
CLIENT: ContextVar[str] = ContextVar("CLIENT", default="nobody's")


class Model:
    """Stands where Ray Serve's handle of the model does: what is sent arrives here."""

    def __init__(self, compute: Callable[[Sequence[Any]], Sequence[Any]] = list) -> None:
        self.sizes: list[int] = []
        self.seen: list[Any] = []
        self.contexts: set[str] = set()
        self.at_once, self.most_at_once = 0, 0
        self._compute = compute

    async def remote(self, requests: Sequence[Any]) -> Sequence[Any]:
        self.sizes.append(len(requests))
        self.seen += requests
        self.contexts.add(CLIENT.get())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(SECONDS)
        self.at_once -= 1
        return self._compute(requests)


def options(**given: Any) -> ServeOptions:
    return ServeOptions("127.0.0.1", 0, **{"batch_size": BATCH, "max_waiting": QUEUE} | given)


async def asked(backend: Backend, requests: Sequence[Any]) -> list[Any]:
    """Ask for all at the same time; return outputs and errors."""
    return list(await asyncio.gather(*(backend.compute(one) for one in requests), return_exceptions=True))


@pytest.mark.parametrize("num_replicas", [1, 3])
def test_clients_that_ask_again_at_once_get_full_batches_on_every_replica(num_replicas: int) -> None:
    model = Model(lambda requests: [-one for one in requests])
    backend = Backend(model, options(max_waiting=100, num_replicas=num_replicas))

    async def client(number: int) -> list[int]:
        return [await backend.compute(100 * turn + number) for turn in range(3)]

    async def crowd() -> list[list[int]]:
        return await asyncio.gather(*(client(number) for number in range(40)))

    outputs = asyncio.run(crowd())
    assert outputs == [[-(100 * turn + number) for turn in range(3)] for number in range(40)]
    assert (sum(model.sizes), max(model.sizes)) == (120, BATCH)
    assert len(model.sizes) <= 120 // BATCH + 2 * num_replicas  # the last ones of each replica may hold fewer
    assert model.most_at_once == num_replicas


def test_a_client_that_asks_again_at_once_is_served_though_nobody_else_asks() -> None:
    """When nothing waits any more, and before the loop has run what follows the end of sending."""
    backend = Backend(Model(), options())

    async def client() -> list[int]:
        async with asyncio.timeout(100 * SECONDS):
            return [await backend.compute(turn) for turn in range(5)]

    assert asyncio.run(client()) == [*range(5)]


@pytest.mark.parametrize("losses", [1, 2])
def test_what_a_lost_process_was_to_compute_is_computed_by_the_next_or_fails_the_second_time(losses: int) -> None:
    left = [losses] * 2  # for each of two batches

    def compute(requests: Sequence[Any]) -> Sequence[Any]:
        batch = requests[0] // BATCH
        if left[batch]:
            left[batch] -= 1
            raise RayActorError
        return requests

    model = Model(compute)
    outputs = asyncio.run(asked(Backend(model, options()), range(2 * BATCH)))
    if losses == 1:
        assert outputs == list(range(2 * BATCH))
    else:
        assert [type(one) for one in outputs] == [ModelFailed] * 2 * BATCH
    assert Counter(model.seen) == Counter([*range(2 * BATCH)] * 2)


def test_what_is_alone_does_not_wait_for_a_full_batch() -> None:
    model = Model()
    assert asyncio.run(asked(Backend(model, options()), ["one"])) == ["one"]
    assert model.sizes == [1]


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_more_than_may_wait_are_refused_and_the_others_computed(num_replicas: int) -> None:
    backend = Backend(Model(), options(num_replicas=num_replicas))
    most = QUEUE + num_replicas * BATCH
    outputs = asyncio.run(asked(backend, range(most + 5)))
    assert outputs[:most] == list(range(most))
    assert [type(one) for one in outputs[most:]] == [QueueFull] * 5


def test_a_bound_that_was_reached_is_free_again_after_the_outputs() -> None:
    backend = Backend(Model(), options())

    async def twice() -> list[list[Any]]:
        return [await asked(backend, range(QUEUE + BATCH)) for _ in range(2)]

    assert asyncio.run(twice()) == [list(range(QUEUE + BATCH))] * 2


def test_a_batch_that_fails_fails_alone_and_the_next_is_computed() -> None:
    def compute(requests: Sequence[Any]) -> Sequence[Any]:
        if "bad" in requests:
            raise ZeroDivisionError
        return requests

    outputs = asyncio.run(asked(Backend(Model(compute), options()), ["bad", *"abc", *"defg"]))
    assert [type(one) for one in outputs[:BATCH]] == [ModelFailed] * BATCH
    assert "ZeroDivisionError" in str(outputs[0])
    assert outputs[BATCH:] == [*"defg"]


def test_requests_of_clients_that_have_gone_are_not_computed_and_make_room() -> None:
    model = Model()
    backend = Backend(model, options())

    async def leaving() -> list[Any]:
        first = asyncio.create_task(asked(backend, range(BATCH)))
        await asyncio.sleep(SECONDS / 5)  # the first batch is being computed
        gone = [asyncio.create_task(backend.compute("gone")) for _ in range(QUEUE)]
        await asyncio.sleep(SECONDS / 2)
        for one in gone:
            one.cancel()
        return await first + await asked(backend, range(BATCH, 2 * BATCH))

    assert asyncio.run(leaving()) == list(range(2 * BATCH))
    assert Counter(model.seen)["gone"] == 0


def test_no_batch_is_sent_in_the_context_of_a_client() -> None:
    """Ray Serve cancels all calls of a context whose client has gone, other clients' requests among them."""
    model = Model()
    backend = Backend(model, options(num_replicas=2))

    async def client(name: str) -> str:
        CLIENT.set(name)
        return str(await backend.compute(name))

    async def crowd() -> list[str]:
        return await asyncio.gather(*(client(f"{number}'s") for number in range(12)))

    assert len(asyncio.run(crowd())) == 12
    assert model.contexts == {"nobody's"}
