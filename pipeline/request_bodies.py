"""A bound on the bodies of requests, whatever their headers say of their length; for every server of ours."""

from typing import Any

from fastapi import HTTPException


def bounded(receive: Any, most_bytes: int) -> Any:
    """Return what receives a body (ASGI's ``receive``) and refuses more of it with 413."""
    left = most_bytes

    async def receiving() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body is larger than {most_bytes} bytes; send less")
        return message

    return receiving
