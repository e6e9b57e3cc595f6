"""Bodies of requests are bounded, and those who send too much get to read that."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import HTTPException

from pipeline.request_bodies import bounded

PART = bytes(1 << 20)


class Client:
    """Sends a body in parts of a megabyte."""

    def __init__(self, parts: int | None) -> None:
        self.received = 0
        self._parts = self._messages(parts)

    def _messages(self, parts: int | None) -> Iterator[dict[str, Any]]:
        while parts is None or self.received < parts:
            self.received += 1
            yield {"type": "http.request", "body": PART, "more_body": self.received != parts}

    async def receive(self) -> dict[str, Any]:
        return next(self._parts)


def read_all(client: Client, most: int) -> int:
    receiving = bounded(client.receive, most)

    async def read() -> int:
        total = 0
        while True:
            message = await receiving()
            total += len(message["body"])
            if not message["more_body"]:
                return total

    return asyncio.run(read())


def test_a_body_within_the_bound_is_received() -> None:
    assert read_all(Client(3), 3 << 20) == 3 << 20


@pytest.mark.parametrize(("parts", "received"), [(4, 4), (60, 60), (None, 4 + 64)])
def test_what_is_too_much_is_read_to_its_end_unless_it_has_none(parts: int | None, received: int) -> None:
    client = Client(parts)
    with pytest.raises(HTTPException, match="larger than 3145728 bytes") as refused:
        read_all(client, 3 << 20)
    assert refused.value.status_code == 413
    assert client.received == received
