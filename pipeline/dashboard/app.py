"""What `corgi dashboard` serves: its page, and below it MLflow's server with what runs need only; behind a secret path.

The address holds a token (``http://127.0.0.1:5000/<token>/``), so that other users of the machine, who reach the port
as well, can neither read nor write; neither can a page in the user's browser, which does not know it. MLflow's own page
is at ``/<token>/mlflow/``; it is loaded by its name, by uvicorn's own importer, so that this module does not import it.
"""

import asyncio
import hmac
import importlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.importer import import_from_string

from pipeline.dashboard.api import make_app
from pipeline.dashboard.api_data import MOST_UPLOADED
from pipeline.dashboard.api_studies import make_rating_app
from pipeline.dashboard.generated import GeneratedImages
from pipeline.dashboard.names import ARTIFACTS, EXPERIMENT, HOSTS, STORE, TOKEN, TRACKING
from pipeline.dashboard.reader import Reader
from pipeline.dashboard.studies import Rater, Studies
from pipeline.listening import host_headers, origins
from pipeline.request_bodies import bounded
from pipeline.store import Store
from pipeline.tracking_address import is_server

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


RUNS_PAGE: Final = "#/experiments/{experiment}/runs?workflowType=machine_learning"
"""MLflow's own start page shows traces of language models, of which there are none."""
_MLFLOW: Final = "mlflow"
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def create_app() -> "Gate":
    """Return the server's application, as the environment describes it; uvicorn calls this."""
    tracking = os.environ.get(TRACKING, "")
    page = RUNS_PAGE.format(experiment=os.environ.get(EXPERIMENT, ""))
    remote = is_server(tracking)
    link = f"{tracking.rstrip('/') if remote else _MLFLOW}/{page}" if tracking else None
    store = Store(os.environ[STORE])
    reader, studies = Reader(store, tracking or None), Studies(store)
    images = GeneratedImages(reader)
    apps = Apps(
        own=make_app(reader, images, studies, link),
        rating=make_rating_app(images, studies),
        mlflow=Mlflow(tracking) if tracking and not remote else None,
    )
    return Gate(apps, studies.rater_of, token=os.environ[TOKEN], hosts=os.environ[HOSTS].split(","))


class Mlflow:
    """MLflow's server, which takes seconds to load: it is when its page is first asked for."""

    def __init__(self, tracking: str) -> None:
        self._tracking, self._lock = tracking, asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        async with self._lock:
            self._app = self._app or await asyncio.to_thread(self._load)
        await self._app(scope, receive, send)

    def _load(self) -> Any:
        names = importlib.import_module("mlflow.server.constants")
        os.environ[names.BACKEND_STORE_URI_ENV_VAR] = self._tracking
        os.environ[names.ARTIFACT_ROOT_ENV_VAR] = os.environ[ARTIFACTS]
        os.environ[names.SERVE_ARTIFACTS_ENV_VAR] = "false"
        return import_from_string("mlflow.server.fastapi_app:app")


@dataclass(frozen=True)
class Apps:
    """What is behind the gate: the dashboard, a rater's page, and MLflow's server."""

    own: Any
    rating: Any
    mlflow: App | None


class Gate:
    """Passes a request on if its host is one of ours, its path begins with the token, and the rest is open.

    A rater's link has a secret of its own instead of the token, and leads to the rater's page alone.
    """

    def __init__(
        self, apps: Apps, rater_of: Callable[[str, str], Rater | None], *, token: str, hosts: Iterable[str]
    ) -> None:
        self._apps, self._rater_of = apps, rater_of
        self._token, self._hosts = token.encode(), frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._apps.own(scope, receive, send)
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
        allowed = origins(host, (scope.get("server") or ("", None))[1] or 0)
        if any(name == b"origin" and value.decode("latin-1") not in allowed for name, value in scope["headers"]):
            await _respond(send, 403, "pages of other sites may not ask here")
            return
        first, slash, rest = scope["path"].lstrip("/").partition("/")
        if not hmac.compare_digest(first.encode("utf-8", "replace"), self._token):
            await self._serve_rater(scope, receive, send)
        elif not slash:
            await _respond(send, 307, "", location=f"/{first}/")
        elif rest == _MLFLOW:
            await _respond(send, 307, "", location=f"/{first}/{_MLFLOW}/")
        elif rest.startswith(f"{_MLFLOW}/"):
            await self._pass_to_mlflow(scope, receive, send, rest.removeprefix(_MLFLOW))
        else:
            await self._apps.own(
                _within(scope, f"/{rest}"), bounded(receive, MOST_UPLOADED), _with_headers(send, _HEADERS)
            )

    async def _serve_rater(self, scope: Scope, receive: Receive, send: Send) -> None:
        first, slash, rest = scope["path"].lstrip("/").partition("/")
        study, _, key = first.partition(".")
        rater = await asyncio.to_thread(self._rater_of, study, key)
        if rater is None:
            await _respond(send, 403, "open the address that `corgi dashboard` printed, with all that follows the port")
        elif not slash:
            await _respond(send, 307, "", location=f"/{first}/")
        else:
            inner = _within(scope, f"/{rest}") | {"state": {"rater": rater}}
            await self._apps.rating(inner, bounded(receive, MOST_UPLOADED), _with_headers(send, _HEADERS))

    async def _pass_to_mlflow(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        if self._apps.mlflow is None or not _is_open(scope["method"], path):
            await _respond(send, 404, "this part of MLflow is off in corgi's dashboard")
        else:
            await self._apps.mlflow(_within(scope, path), receive, _with_headers(send, {}))


def _within(scope: Scope, path: str) -> Scope:
    """Return a request as it would be without the token before its path, and without its origin, which is checked."""
    headers = [pair for pair in scope["headers"] if pair[0] != b"origin"]
    return scope | {"path": path, "raw_path": path.encode("utf-8", "replace"), "headers": headers}


def _addressed(scope: Scope) -> frozenset[str]:
    """Return the numeric address and port that this connection came to, as a Host header has them."""
    server = scope.get("server") or ("", None)
    return host_headers(str(server[0]), server[1]) if server[1] else frozenset()


def _is_open(method: str, path: str) -> bool:
    asked = "GET" if method == "HEAD" else method
    return any(asked in methods and paths.fullmatch(path) for methods, paths in _ROUTES)


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Keep the token from other sites: a browser would name the page that a link or an image stands on."""
    given = {"referrer-policy": "no-referrer", **headers}

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found = message.get("headers", [])
            extra = [(name.encode(), value.encode()) for name, value in given.items()]
            if all(name != b"cache-control" for name, _ in found):
                extra.append((b"cache-control", b"private, no-cache"))
            message = message | {"headers": [*found, *extra]}
        await send(message)

    return sending


async def _respond(send: Send, status: int, text: str, *, location: str = "") -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"referrer-policy", b"no-referrer")]
    headers += [(b"location", location.encode())] if location else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
