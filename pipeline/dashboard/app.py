"""MLflow's server as `corgi dashboard` runs it: behind a secret path, for exact hosts, and with what runs need only.

The address holds a token (``http://127.0.0.1:5000/<token>/``), so that other users of the machine, who reach the port
as well, can neither read nor write; neither can a page in the user's browser, which does not know it. MLflow is loaded
by its name, by uvicorn's own importer, so that this module does not import it.
"""

import hmac
import importlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from uvicorn.importer import import_from_string

from pipeline.listening import address

STORE: Final = "CORGI_DASHBOARD_STORE"  # environment variables that the server gets: where the runs are recorded…
ARTIFACTS: Final = "CORGI_DASHBOARD_ARTIFACTS"  # …where new runs would put their files…
TOKEN: Final = "CORGI_DASHBOARD_TOKEN"  # …the secret part of the address; not an argument, which others could see…
HOSTS: Final = "CORGI_DASHBOARD_HOSTS"  # …and the values of Host that are answered, apart by commas.

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_API: Final = r"/(?:ajax-)?api/[23]\.0/mlflow/"
_OPEN: Final = (  # methods, and paths after the token; whatever is not here is answered with 404
    ("GET", r"/|/version|/static-files/.+|/get-artifact|/model-versions/get-artifact|/graphql"),
    ("POST", r"/graphql"),
    ("GET POST PATCH DELETE", _API + r"(?:runs/(?!create-promptlab-run)|experiments/|metrics/).+"),
    ("GET", _API + r"(?:artifacts/list|logged-models|registered-models|model-versions)(?:/.+)?"),
    ("GET", _API + r"(?:server-info|get-artifact|ui-telemetry)"),
    ("POST", _API + r"(?:logged-models|traces)/search"),
)
"""Off are: the artifact proxy and uploads, changes of the model registry, webhooks, gateway and its secrets, jobs,
scorers, prompts, the assistant, tools (MCP), traces but their search, evaluation data, users, workspaces."""
_ROUTES: Final = tuple((frozenset(methods.split()), re.compile(paths)) for methods, paths in _OPEN)
_HEALTH: Final = "/health"


def create_app() -> "Gate":
    """Return the server's application, as the environment describes it; uvicorn calls this."""
    names = importlib.import_module("mlflow.server.constants")
    os.environ[names.BACKEND_STORE_URI_ENV_VAR] = os.environ[STORE]
    os.environ[names.ARTIFACT_ROOT_ENV_VAR] = os.environ[ARTIFACTS]
    os.environ[names.SERVE_ARTIFACTS_ENV_VAR] = "false"
    inner: App = import_from_string("mlflow.server.fastapi_app:app")
    return Gate(inner, token=os.environ[TOKEN], hosts=os.environ[HOSTS].split(","))


class Gate:
    """Passes a request on if its host is one of ours, its path begins with the token, and the rest is open."""

    def __init__(self, app: App, *, token: str, hosts: Iterable[str]) -> None:
        self._app, self._token, self._hosts = app, token.encode(), frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        if host not in self._hosts | _addressed(scope):
            await _respond(send, 403, "this host is not served here")
            return
        if scope["path"] == _HEALTH and scope["method"] == "GET":
            await _respond(send, 200, "OK")
            return
        first, slash, rest = scope["path"].lstrip("/").partition("/")
        if not hmac.compare_digest(first.encode("utf-8", "replace"), self._token):
            await _respond(send, 403, "open the address that `corgi dashboard` printed, with all that follows the port")
        elif not slash:
            await _respond(send, 307, "", location=f"/{first}/")
        elif not _is_open(scope["method"], f"/{rest}"):
            await _respond(send, 404, "this part of MLflow is off in corgi's dashboard")
        elif any(name == b"origin" and value != f"http://{host}".encode() for name, value in scope["headers"]):
            await _respond(send, 403, "pages of other sites may not ask here")
        else:
            headers = [pair for pair in scope["headers"] if pair[0] != b"origin"]
            inner = scope | {"path": f"/{rest}", "raw_path": f"/{rest}".encode("utf-8", "replace"), "headers": headers}
            await self._app(inner, receive, _without_referrer(send))


def _addressed(scope: Scope) -> frozenset[str]:
    """Return the numeric address and port that this connection came to, as a Host header has them."""
    server = scope.get("server") or ("", None)
    return frozenset((address(str(server[0]), server[1]),)) if server[1] else frozenset()


def _is_open(method: str, path: str) -> bool:
    asked = "GET" if method == "HEAD" else method
    return any(asked in methods and paths.fullmatch(path) for methods, paths in _ROUTES)


def _without_referrer(send: Send) -> Send:
    """Keep the token from other sites: a browser would name the page that a link or an image stands on."""

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"referrer-policy", b"no-referrer"), (b"cache-control", b"private")]
            message = message | {"headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sending


async def _respond(send: Send, status: int, text: str, *, location: str = "") -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"referrer-policy", b"no-referrer")]
    headers += [(b"location", location.encode())] if location else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
