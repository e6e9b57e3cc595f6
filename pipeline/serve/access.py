"""Who may ask a server of ours, and how much: by its token, and by the size of a body."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse

from cluster.serve import App
from pipeline.request_bodies import bounded

OPEN: Final = frozenset(("/", "/page.css", "/page.js", "/health", "/ready"))
"""Paths that need no token: nothing of the model is on them."""

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def digest_of(token: bytes) -> bytes:
    """Return by what a token is recognised: the token itself stays in the process that read it."""
    return hashlib.sha256(token).digest()


class Gate:
    """Passes a request on if its token is right and its body is small, and gives each reply the headers of a page.

    The digest is None where no token is needed.
    """

    def __init__(self, app: App, *, token_digest: bytes | None, most_bytes: int) -> None:
        self._app, self._digest, self._most = app, token_digest, most_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] != "http":  # there are no websockets, and the application refuses them
            await self._app(scope, receive, send)
            return
        app: Any = self._app
        if not (scope["path"] in OPEN or self._is_known(dict(scope["headers"]))):
            message = "this server needs its token: send the header Authorization: Bearer TOKEN"
            app = JSONResponse({"detail": message}, 401, {"www-authenticate": "Bearer"})
        await app(scope, bounded(receive, self._most), _with_headers(send))

    def _is_known(self, headers: Mapping[bytes, bytes]) -> bool:
        if self._digest is None:
            return True
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(digest_of(token.strip()), self._digest) and scheme.lower() == b"bearer"


def _with_headers(send: Any) -> Any:
    extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending
