"""The dashboard's own application: its page, and what the page asks for, as JSON and PNG."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import FileResponse, Response

from pipeline.dashboard.api_data import data_router, gaussians_router
from pipeline.dashboard.api_parts import FILES, handle_errors, page_router, png
from pipeline.dashboard.api_studies import studies_router
from pipeline.dashboard.generated import GeneratedImages
from pipeline.dashboard.protocol_groups import against_fraction, side_by_side
from pipeline.dashboard.reader import Reader, findings_document
from pipeline.dashboard.runs import MOST_METRICS, differences, run_document, run_table
from pipeline.dashboard.samples import Samples
from pipeline.dashboard.studies import Studies
from pipeline.dashboard.units import UnitStates
from stages.contract.secrets import redact_addresses

MOST_RUNS: Final = 12
"""That are shown side by side."""
Names = Annotated[list[str], Query(max_length=100)]
Runs = Annotated[list[str], Query(alias="run", min_length=1, max_length=MOST_RUNS)]


def make_app(reader: Reader, images: GeneratedImages, studies: Studies, mlflow: str | None) -> FastAPI:
    """Return the application; ``mlflow`` is the address of MLflow's own page, None where there is none."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    samples = Samples(reader)
    app.include_router(page_router())
    of_runs = (_runs(reader, mlflow), _tracked(reader), _generated(images))
    for part in (*of_runs, data_router(samples), gaussians_router(samples), studies_router(reader, studies)):
        app.include_router(part, prefix="/api")
    handle_errors(app)

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(FILES / "index.html")

    return app


def _runs(reader: Reader, mlflow: str | None) -> APIRouter:
    router, units = APIRouter(), UnitStates()

    @router.get("/about")
    def about() -> dict[str, Any]:
        return {"store": redact_addresses(reader.store.uri), "mlflow": mlflow}

    @router.get("/runs")
    def runs(metric: Names = []) -> dict[str, Any]:  # noqa: B006  FastAPI copies it
        return run_table(reader.store, metric)

    @router.get("/runs/{run}")
    def run(run: str) -> dict[str, Any]:
        return run_document(reader.record(run), reader.store, units)

    @router.get("/runs/{run}/findings/{stage}")
    def findings(run: str, stage: str) -> dict[str, Any]:
        return findings_document(reader.findings(run, stage))

    @router.get("/differences")
    def compare(run: Runs) -> list[dict[str, Any]]:
        return differences([reader.record(one) for one in run])

    @router.get("/comparison")
    def comparison(run: Runs, metric: Names = []) -> list[dict[str, Any]]:  # noqa: B006
        return side_by_side([reader.record(one) for one in run], metric[:MOST_METRICS])

    @router.get("/fraction")
    def fraction(metric: Annotated[str, Query(max_length=1000)]) -> dict[str, Any]:
        return against_fraction(list(reader.store.runs()), metric)

    return router


def _generated(images: GeneratedImages) -> APIRouter:
    router = APIRouter()

    @router.get("/generated")
    def side_by_side(
        run: Runs,
        name: Annotated[str, Query(alias="set", max_length=100)] = "",
        text: Annotated[str, Query(max_length=1000)] = "",
        first: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        return images.side_by_side(run, name, text, first)

    @router.get("/runs/{run}/generated/{name}/{index}")
    def image(run: str, name: str, index: int) -> Response:
        return png(images.image(run, name, index))

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
