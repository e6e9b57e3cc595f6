"""What the data browser and the view of the Gaussians ask for."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response

from pipeline.dashboard.api_parts import png
from pipeline.dashboard.reader import NotThere
from pipeline.dashboard.samples import PAGE, Samples

MOST_UPLOADED = 20_000_000
"""Bytes of an image that is sent to be searched for."""
_NEAREST = 24
Least = Annotated[float, Query(ge=0.5, le=1.0)]


def data_router(samples: Samples) -> APIRouter:
    """Return the paths of a run's samples, and of what is odd about some of them."""
    router = APIRouter(prefix="/runs/{run}")
    router.include_router(_search_router(samples))

    @router.get("/shards")
    def shards(run: str, first: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        return samples.shards(run, first) | {"page": PAGE}

    @router.get("/samples/{shard}")
    def page(run: str, shard: str, first: Annotated[int, Query(ge=0)] = 0) -> list[dict[str, Any]]:
        return samples.page(run, shard, first)

    @router.get("/samples/{shard}/{key}")
    def image(run: str, shard: str, key: str) -> Response:
        return png(samples.image(run, shard, key))

    @router.get("/duplicates")
    def duplicates(run: str, least: Least = 0.98) -> dict[str, Any]:
        return samples.near_duplicates(run, least)

    @router.get("/lowest")
    def lowest(run: str) -> dict[str, Any]:
        return samples.lowest(run)

    @router.get("/worst")
    def worst(run: str) -> list[dict[str, Any]]:
        return samples.worst(run)

    @router.get("/leaks")
    def leaks(run: str, least: Least = 0.98) -> dict[str, Any]:
        return samples.leaks(run, least)

    return router


def _search_router(samples: Samples) -> APIRouter:
    router = APIRouter()

    @router.get("/search")
    def search(run: str, text: Annotated[str, Query(min_length=1, max_length=1000)]) -> dict[str, Any]:
        return samples.search_text(run, text)

    @router.post("/search")
    def search_image(
        run: str, content: Annotated[bytes, Body(media_type="application/octet-stream", max_length=MOST_UPLOADED)]
    ) -> dict[str, Any]:
        return samples.search_image(run, content)

    @router.get("/similar")
    def similar(run: str, shard: str, key: str) -> dict[str, Any]:
        return samples.search_sample(run, shard, key)

    return router


def gaussians_router(samples: Samples) -> APIRouter:
    """Return the paths of a run's Gaussians."""
    router = APIRouter(prefix="/runs/{run}/gaussians")

    @router.get("")
    def gaussians(run: str) -> dict[str, Any]:
        found = samples.projection(run)
        return {
            "means": found.means.tolist(),
            "radii": found.radii.tolist(),
            "counts": found.counts.tolist(),
            "rows": found.rows.round(4).tolist(),
            "owners": found.owners.tolist(),
            "explained": found.explained,
            "total": found.total,
        }

    @router.get("/{gaussian}")
    def nearest(run: str, gaussian: int) -> list[dict[str, Any]]:
        found = samples.projection(run)
        if not 0 <= gaussian < len(found.counts):
            raise NotThere(f"Gaussian {gaussian}: there are {len(found.counts)}, from 0 on")
        rows = found.nearest(gaussian, _NEAREST)
        positions = [(row, *found.positions[row]) for row in rows]
        return [{"shard": shard, "key": key, "score": float(found.distances[row])} for row, shard, key in positions]

    return router
