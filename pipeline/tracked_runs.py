"""What MLflow holds of a run, as the dashboard and ``corgi inspect`` read it: numbers by step, and images."""

import math
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pipeline.tracking_address import ARTIFACTS, TrackingAway, require_response, sqlite_path, usable_address
from pipeline.tracking_state import ROLLED_BACK_TO, image_of, is_discarded, roll_backs_of
from stages.storage.walking import is_inside

MOST_POINTS: Final = 2000
"""Of a curve that is sent; longer ones are thinned, smallest and largest of each part kept."""
IMAGES: Final = "images"
_opening = threading.Lock()


@dataclass(frozen=True)
class Point:
    """A number at a step, and when it was recorded, in milliseconds."""

    step: int
    value: float
    time: int


def metric_names(tracking_uri: str, run_id: str) -> list[str]:
    """Return the names of the numbers that a run holds.

    Raises:
        TrackingAway: the server does not answer, or does not have them.
    """
    with _asking(tracking_uri) as client:
        return sorted(client.get_run(run_id).data.metrics)


def metric_history(tracking_uri: str, run_id: str, name: str) -> list[Point]:
    """Return a run's numbers of this name, by step, without those of steps from which training rolled back.

    Of several at a step, as figures of a stage that was made again are, the latest counts; where that one is no finite
    number, which neither a plot nor JSON can show, there is none.

    TrackingAway as in :func:`metric_names`.
    """
    with _asking(tracking_uri) as client:
        found = client.get_metric_history(run_id, name)
        roll_backs = () if name == ROLLED_BACK_TO else roll_backs_of(client, run_id)
    points = (Point(one.step, one.value, one.timestamp) for one in found)
    counting = (point for point in points if not is_discarded(roll_backs, point.step, point.time))
    latest = {point.step: point for point in sorted(counting, key=lambda point: (point.step, point.time, point.value))}
    return thinned([point for point in latest.values() if math.isfinite(point.value)])


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return about so many points of a curve, ends, smallest and largest values of each part among them."""
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept = {0, len(points) - 1}
    for first in range(0, len(points), size):
        part = range(first, min(first + size, len(points)))
        kept |= {choose(part, key=lambda index: points[index].value) for choose in (min, max)}
    return [points[index] for index in sorted(kept)]


def image_steps(tracking_uri: str, run_id: str) -> dict[str, dict[int, str]]:
    """Return the images that a run holds and that count, as above: by name and step, the path of each.

    TrackingAway as above.
    """
    found: dict[str, dict[int, str]] = {}
    with _asking(tracking_uri) as client:
        folder = _own_folder(client, tracking_uri, run_id)
        roll_backs = roll_backs_of(client, run_id)
        listed = [one.path for one in client.list_artifacts(run_id, IMAGES)] if folder is None else _names(folder)
        for path in listed:
            image = image_of(path)
            if image is not None and path.endswith(".png") and not is_discarded(roll_backs, *image[1:]):
                found.setdefault(image[0], {})[image[1]] = path
    return {name: dict(sorted(steps.items())) for name, steps in sorted(found.items())}


def read_image(tracking_uri: str, run_id: str, path: str) -> bytes:
    """Return an image at a path that :func:`image_steps` named, as PNG; TrackingAway as above."""
    with _asking(tracking_uri) as client, tempfile.TemporaryDirectory(prefix="corgi-images-") as folder:
        own = _own_folder(client, tracking_uri, run_id)
        if own is None:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
        if not is_inside(own / path, own):
            raise FileNotFoundError(path)
        return (own / path).read_bytes()


def tracked_images(tracking_uri: str, run_id: str) -> dict[tuple[str, int], bytes]:
    """Return the latest image of each name that a run holds, with its step, as PNG; TrackingAway as above."""
    latest = {name: max(steps.items()) for name, steps in image_steps(tracking_uri, run_id).items()}
    return {(name, step): read_image(tracking_uri, run_id, path) for name, (step, path) in latest.items()}


def _own_folder(client: Any, tracking_uri: str, run_id: str) -> Path | None:
    """Return where a run's files lie beside its database, which names the place where they lay when they were written.

    None: they lie elsewhere, where MLflow finds them.
    """
    database = sqlite_path(tracking_uri)
    if database is None:
        return None
    _, beside, rest = str(client.get_run(run_id).info.artifact_uri).rpartition(f"/{ARTIFACTS}/")
    folder = database.parent / ARTIFACTS / urllib.parse.unquote(rest)
    return folder if beside and folder.is_dir() and is_inside(folder, database.parent) else None


def _names(folder: Path) -> list[str]:
    images = folder / IMAGES
    return sorted(f"{IMAGES}/{file.name}" for file in images.iterdir()) if images.is_dir() else []


@contextmanager
def _asking(tracking_uri: str) -> Iterator[Any]:
    address = usable_address(tracking_uri)
    require_response(address)
    try:
        with _opening:  # of a database, MLflow would make its tables in several threads at once
            client = _client(address)
        yield client
    except Exception as error:  # whatever the client, or a store of artifacts, raises
        raise TrackingAway.by(error, address) from error


@lru_cache(maxsize=4)
def _client(address: str) -> Any:
    from pipeline.tracking import open_client

    return open_client(address)
