"""What the dashboard's applications have in common: files of the page, images, and errors as one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response

from pipeline.dashboard.reader import NotThere
from pipeline.dashboard.studies import NoStudy
from pipeline.errors import PipelineError
from pipeline.tracking_address import TrackingAway
from stages.contract.errors import StageError
from stages.contract.texts import one_line

FILES: Final = Path(__file__).parent / "page"
_MOST_FAULTS: Final = 10  # of a request that are named


def png(content: bytes) -> Response:
    """Return an image; browsers ask for it anew, as what lies under its address may be made again."""
    return Response(content, media_type="image/png", headers={"cache-control": "private, no-cache"})


def page_router() -> APIRouter:
    """Return the path of the page's files."""
    router = APIRouter()

    @router.get("/page/{name}")
    def file(name: str) -> FileResponse:
        if name not in {path.name for path in FILES.iterdir()}:
            raise HTTPException(404, "there is no such file")
        return FileResponse(FILES / name)

    return router


def handle_errors(app: FastAPI) -> None:
    """Let our errors, and malformed requests, be one printable sentence each."""
    codes: dict[type[Exception], int] = {
        NotThere: 404, NoStudy: 404, TrackingAway: 503, PipelineError: 409, StageError: 409,
    }  # fmt: skip
    for kind, code in codes.items():
        app.add_exception_handler(kind, _problem(code))
    app.add_exception_handler(RequestValidationError, _malformed)


def _problem(code: int) -> Callable[[Request, Exception], JSONResponse]:
    def respond(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": one_line(error, 1000)}, code)

    return respond


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:_MOST_FAULTS]]
    return JSONResponse({"detail": one_line("; ".join(parts), 1000)}, 422)
