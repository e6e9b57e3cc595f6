"""A bound on the bodies of requests, whatever their headers say of their length; for every server of ours."""

from typing import Any

from fastapi import HTTPException

_MOST_DISCARDED = 64 << 20  # bytes


def bounded(receive: Any, most_bytes: int) -> Any:
    """Return what receives a body (ASGI's ``receive``) and refuses more of it with 413.

    What is too much is read all the same, within bounds: a connection that is closed while its client still sends is
    reset, and the client may never read why.
    """
    left = most_bytes

    async def receiving() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            await _discard(receive, message)
            raise HTTPException(413, f"the body is larger than {most_bytes} bytes; send less")
        return message

    return receiving


async def _discard(receive: Any, message: Any) -> None:
    """Receive what follows a part of a body."""
    left = _MOST_DISCARDED
    while message.get("more_body") and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
