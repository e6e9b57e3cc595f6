"""The dashboard's own application: its page, and what the page asks for, as JSON and PNG."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response

from pipeline.dashboard.reader import NotThere, Reader, findings_document
from pipeline.dashboard.runs import differences, run_document, run_table
from pipeline.errors import PipelineError
from pipeline.tracking_address import TrackingAway
from stages.contract.errors import StageError
from stages.contract.secrets import redact_addresses
from stages.contract.texts import one_line

FILES: Final = Path(__file__).parent / "page"
MOST_RUNS: Final = 12
"""That are shown side by side."""
Names = Annotated[list[str], Query(max_length=100)]
Runs = Annotated[list[str], Query(alias="run", min_length=1, max_length=MOST_RUNS)]


def make_app(reader: Reader, mlflow: str | None) -> FastAPI:
    """Return the application; ``mlflow`` is the address of MLflow's own page, None where there is none."""
    app = FastAPI(title="Corgi dashboard", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(_pages())
    app.include_router(_runs(reader, mlflow), prefix="/api")
    app.include_router(_tracked(reader), prefix="/api")
    app.add_exception_handler(NotThere, _problem(404))
    app.add_exception_handler(TrackingAway, _problem(503))
    app.add_exception_handler(PipelineError, _problem(409))
    app.add_exception_handler(StageError, _problem(409))
    app.add_exception_handler(RequestValidationError, _malformed)
    return app


def png(content: bytes) -> Response:
    """Return an image that does not change."""
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


def _pages() -> APIRouter:
    router = APIRouter()

    @router.get("/")
    def index() -> FileResponse:
        return FileResponse(FILES / "index.html")

    @router.get("/page/{name}")
    def file(name: str) -> FileResponse:
        if name not in {path.name for path in FILES.iterdir()}:
            raise HTTPException(404, "there is no such file")
        return FileResponse(FILES / name)

    return router


def _runs(reader: Reader, mlflow: str | None) -> APIRouter:
    router = APIRouter()

    @router.get("/about")
    def about() -> dict[str, Any]:
        return {"store": redact_addresses(reader.store.uri), "mlflow": mlflow}

    @router.get("/runs")
    def runs(metric: Names = []) -> dict[str, Any]:  # noqa: B006  FastAPI copies it
        return run_table(reader.store, metric)

    @router.get("/runs/{run}")
    def run(run: str) -> dict[str, Any]:
        return run_document(reader.record(run), reader.store)

    @router.get("/runs/{run}/findings/{stage}")
    def findings(run: str, stage: str) -> dict[str, Any]:
        return findings_document(reader.findings(run, stage))

    @router.get("/runs/{run}/generated")
    def generated(run: str) -> dict[str, Any]:
        rows = reader.generated(run)
        shown = [{"set": one.set, "index": one.index, "prompt": one.prompt, "seed": one.seed} for one in rows]
        return {"rows": shown, "settings": rows[0].settings if rows else {}}

    @router.get("/runs/{run}/generated/{name}/{index}")
    def generated_image(run: str, name: str, index: int) -> Response:
        return png(reader.generated_image(run, name, index))

    @router.get("/differences")
    def compare(run: Runs) -> list[dict[str, Any]]:
        return differences([reader.record(one) for one in run])

    return router


def _tracked(reader: Reader) -> APIRouter:
    router = APIRouter()

    @router.get("/runs/{run}/curves")
    def names(run: str) -> dict[str, list[str]]:
        return reader.curve_names(run)

    @router.get("/runs/{run}/curves/{stage}")
    def curve(run: str, stage: str, name: str) -> list[tuple[int, float | None, int]]:
        found = reader.curve(run, stage, name)
        return [(step, value if abs(value) < float("inf") else None, time) for step, value, time in found]

    @router.get("/runs/{run}/images")
    def steps(run: str) -> dict[str, dict[str, list[int]]]:
        return reader.image_steps(run)

    @router.get("/runs/{run}/images/{stage}/{step}")
    def image(run: str, stage: str, step: int, name: str) -> Response:
        return png(reader.image(run, stage, name, step))

    return router


def _problem(code: int) -> Callable[[Request, Exception], JSONResponse]:
    def respond(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": one_line(error, 1000)}, code)

    return respond


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:10]]
    return JSONResponse({"detail": one_line("; ".join(parts), 1000)}, 422)
