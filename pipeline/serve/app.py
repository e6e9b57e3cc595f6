"""The application of ``corgi serve``: prompts in, images out, as JSON; and a page that asks it."""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, create_model
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cluster.errors import ModelFailed, QueueFull
from cluster.serve import RETRY_SECONDS, Backend
from pipeline.serve.access import Gate
from pipeline.serve.limits import Limits
from pipeline.serve.model import Made, Wanted
from stages.contract.parsing import is_text, shown
from stages.formats.generated_images import encode_png
from stages.inference.requests import LARGEST_SEED

_FILES: Final = Path(__file__).parent
_PAGES: Final = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_MOST_SEED: Final = min(LARGEST_SEED, 2**53 - 1)  # that a page can hold exactly
_RANDOM_SEEDS: Final = 2**31
_MOST_FAULTS = 10  # of a request that are named


class Image(BaseModel):
    """An image as PNG in base64; the file says its prompt, seed, run and settings too."""

    prompt: str
    seed: int
    png: str


class Images(BaseModel):
    """The images of a request: the first has its seed, the next one the next, and so on."""

    run: str
    images: list[Image]


class About(BaseModel):
    """The run whose model is served, and what a request may hold."""

    run: str
    sizes: list[str]
    longest_prompt: int
    most_images: int


class State(BaseModel):
    """A word on the state of the server."""

    status: str


class Problem(BaseModel):
    """What was wrong, in one sentence."""

    detail: str


@dataclass(frozen=True)
class AppMaker:
    """Makes the application in the process that takes requests; pickled into it."""

    run: str
    limits: Limits
    sizes: tuple[str, ...]
    """Widths and heights that a request may ask for, such as 96x64; none: all images are alike."""
    hosts: tuple[str, ...] = ()
    """Values of Host that are served, without the port; empty: all."""
    token_digest: bytes | None = None

    def __call__(self, backend: Backend) -> Any:
        """Return the application."""
        app = FastAPI(
            title="Corgi Pipeline", version="1", description=f"Text to image, by the model of run {self.run}.",
            docs_url=None, redoc_url=None,  # these load scripts of other hosts
            responses={code: {"model": Problem} for code in (401, 413, 422)},
        )  # fmt: skip
        app.include_router(_pages())
        app.include_router(_states(backend))
        app.include_router(_model(self, backend), dependencies=[Depends(HTTPBearer(auto_error=False))])
        app.add_exception_handler(RequestValidationError, _malformed)
        app.add_exception_handler(HTTPException, _refused)
        app.add_middleware(Gate, token_digest=self.token_digest, most_bytes=self.limits.body)
        if self.hosts:
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(self.hosts), www_redirect=False)
        return app


def _pages() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, file in _PAGES.items():
        router.add_api_route(path, lambda file=file: FileResponse(_FILES / file), methods=["GET"], response_model=None)
    return router


def _states(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> State:
        """Say that the server runs."""
        return State(status="running")

    @router.get("/ready", responses={503: {"model": State}})
    async def ready() -> JSONResponse:
        """Say whether the model is loaded, so that requests can be sent."""
        is_ready = await backend.is_ready()
        return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    return router


def _model(maker: AppMaker, backend: Backend) -> APIRouter:
    router = APIRouter()
    wanted_type: Any = _request_type(maker.limits, maker.sizes)

    @router.get("/about")
    async def about() -> About:
        """Say which run's model is served, and what a request may hold."""
        sizes = list(maker.sizes)
        return About(run=maker.run, sizes=sizes, longest_prompt=maker.limits.prompt, most_images=maker.limits.images)

    @router.post("/generate", responses={code: {"model": Problem} for code in (429, 503)})
    async def generate(wanted: wanted_type) -> Images:
        """Generate images of a prompt; the same prompt and seed give the same image."""
        seed = secrets.randbelow(_RANDOM_SEEDS) if wanted.seed is None else wanted.seed
        requests = [Wanted(wanted.prompt, seed + number, wanted.size) for number in range(wanted.num_images)]
        made = await _computed(backend, requests)
        images = await asyncio.to_thread(_encoded, requests, made)
        return Images(run=maker.run, images=images)

    return router


def _request_type(limits: Limits, sizes: Sequence[str]) -> type[BaseModel]:
    """Return what a body has to be; its bounds are those of this server, and stand in the OpenAPI document."""
    most = _MOST_SEED - limits.images
    size: Any = Literal[*sizes] | None if sizes else None
    return create_model(
        "Wanted",
        __config__=ConfigDict(extra="forbid"),
        prompt=(Annotated[str, Field(max_length=limits.prompt), AfterValidator(_text)], ...),
        seed=(Annotated[StrictInt, Field(ge=0, le=most)] | None, None),
        num_images=(Annotated[StrictInt, Field(ge=1, le=limits.images)], 1),
        size=(size, None),
    )


def _text(text: str) -> str:
    if not is_text(text):
        raise ValueError("UTF-8 cannot express it")
    return text


async def _computed(backend: Backend, requests: Sequence[Wanted]) -> list[Made]:
    """Return what the model makes of all requests; where one is refused, the others are given up."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(backend.compute(request)) for request in requests]
    except* QueueFull:
        wait = {"retry-after": f"{RETRY_SECONDS:.0f}"}
        raise HTTPException(429, "as many images wait here as may; ask again in a moment", wait) from None
    except* ModelFailed:
        raise HTTPException(503, "the model failed; ask again, or look at what the server printed") from None
    return [task.result() for task in tasks]


def _encoded(requests: Sequence[Wanted], made: Sequence[Made]) -> list[Image]:
    found = []
    for request, one in zip(requests, made, strict=True):
        fields = {"prompt": request.prompt, "seed": request.seed, "run": one.run, "settings": one.settings}
        png = base64.b64encode(encode_png(one.image, fields)).decode()
        found.append(Image(prompt=request.prompt, seed=request.seed, png=png))
    return found


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong with a body, without its own words but for names and places, made printable."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:_MOST_FAULTS]]
    return JSONResponse({"detail": shown("; ".join(parts), 1000)}, 422)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Reply in one form to all errors; a body that cannot be parsed at all is malformed as well."""
    if not isinstance(error, HTTPException):
        raise error
    code = 422 if error.status_code == 400 else error.status_code
    return JSONResponse({"detail": str(error.detail)}, code, dict(error.headers or {}))
