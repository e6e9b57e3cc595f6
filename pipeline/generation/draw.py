"""Draw what ``corgi generate`` is asked for, and write it with everything that it takes to draw it again."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import UsageError
from pipeline.generation.models import find_run_of, load_system
from pipeline.generation.recipes import Group, groups_of, read_sources
from pipeline.generation.request import Request
from pipeline.store import Store
from stages.contract.errors import InputFault
from stages.inference.generation import Place, generate_images, regenerate
from stages.inference.requests import EditRecipe, Recipe, fields_of, recipe_from
from stages.inference.text_to_image import TextToImage, encode_png

LARGEST_BATCH = 4096  # a file may say anything

Entry = dict[str, Any]


def generate_for_request(store: Store, request: Request, out: Path) -> list[Entry]:
    """Draw what is asked for, one PNG each; return path, prompt, seed and mode of every image.

    Raises:
        UsageError: no such run, a run without a model, a file that cannot be used, or a folder that cannot be written.
    """
    if request.again is not None:
        return [_make_again(store, request.again, out)]
    sources = read_sources(request)
    record = store.find_run(request.run)
    system = load_system(store, record)
    if request.mode == "edit":
        _require_edits(system, record.run)
    about = {"run": record.run, "settings": system.settings.flat()}
    written: list[Entry] = []
    for groups in _chunks(groups_of(request, sources, system), system.batch_size):
        for image, told in _best(system, groups):
            path = out / f"{len(written):05d}.png"
            _write(path, image, {**told, **about})
            written.append(_entry(path, told))
    return written


def _chunks(groups: Iterable[Group], batch_size: int) -> Iterator[list[Group]]:
    """Join groups until they fill a batch, so that images are written as they come."""
    chunk: list[Group] = []
    for group in groups:
        chunk.append(group)
        if sum(len(one.recipes) for one in chunk) >= batch_size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _best(system: TextToImage, groups: Sequence[Group]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Draw the recipes of all groups, and yield those that are kept of each, the best first, with what is told of them.

    The judges are the run's own CLIP models; where nothing is left out, nobody judges.
    """
    recipes = [recipe for group in groups for recipe in group.recipes]
    try:
        generated = generate_images(system, recipes)
    except ValueError as error:
        raise UsageError(f"generate: {error}") from error
    first = 0
    for group in groups:
        own = generated[first : first + len(group.recipes)]
        first += len(own)
        told = [_told(recipe, one.place) for recipe, one in zip(group.recipes, own, strict=True)]
        order = list(range(len(own)))
        if len(own) > 1:
            cosines = system.agreement(np.stack([one.image for one in own]), [row["prompt"] for row in told]).tolist()
            scores = [round(100 * max(cosine, 0.0), 4) for cosine in cosines]
            told = [{**row, "clip_score": score} for row, score in zip(told, scores, strict=True)]
            order = [row for _, row in sorted(zip((-cosine for cosine in cosines), order, strict=True))]
        for row in order[: group.kept]:
            yield own[row].image, told[row]


def _told(recipe: Recipe, place: Place) -> dict[str, Any]:
    return {
        "prompt": recipe.title,
        "seed": str(recipe.seed),
        "recipe": fields_of(recipe),
        "batch": [place.size, place.row],
    }


def _make_again(store: Store, file: Path, out: Path) -> Entry:
    """Draw an image again from its own file, and compare the two."""
    about, before = _read_generated(file)
    where = f"--again {file}"
    try:
        recipe, settings, place = recipe_from(about, where), json.loads(about["settings"]), _place(about)
    except (InputFault, KeyError, ValueError, TypeError) as error:
        found = str(error) if isinstance(error, InputFault) else f"{where}: its text fields cannot be read ({error!r})"
        raise UsageError(found) from error
    record = find_run_of(store, about.get("run", ""), str(file))
    try:
        system = load_system(store, record, batch_size=place.size).with_settings(settings)
        if isinstance(recipe, EditRecipe):
            _require_edits(system, record.run)
        image = regenerate(system, recipe, place)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: cannot be drawn again ({error}); use the version of corgi that made it") from error
    path = out / f"{file.stem}_again.png"
    _write(path, image, about)
    same_size = image.shape == before.shape
    largest = int(np.abs(image.astype(int) - before.astype(int)).max()) if same_size else 255
    told = {"prompt": about["prompt"], "seed": about["seed"], "recipe": fields_of(recipe)}
    return {**_entry(path, told), "pixel_equal": largest == 0, "largest_difference": largest}


def _read_generated(file: Path) -> tuple[dict[str, str], np.ndarray]:
    """Return the text fields and the pixels of an image that corgi drew."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
            return {str(key): value for key, value in image.info.items() if isinstance(value, str)}, pixels
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"--again: {file} cannot be read as a PNG ({error}); give an image that corgi drew") from None


def _place(about: Mapping[str, str]) -> Place:
    """Return the image's place in its batch; images of the generate stage and of a served model tell none."""
    size, row = json.loads(about.get("batch", "[1, 0]"))
    if not (isinstance(size, int) and isinstance(row, int) and 0 <= row < size <= LARGEST_BATCH):
        raise ValueError(f"batch {about['batch']}")
    return Place(size, row)


def _require_edits(system: TextToImage, run: str) -> None:
    if not system.can_edit:
        raise UsageError(
            f"--edit: the decoder of run {run} is of kind {system.decoder_kind}, which draws no image by denoising; "
            "allowed are pixel_diffusion, latent_diffusion and stable_diffusion; add --instead-of TEXT to edit by the "
            "embedding, or name another run"
        )


def _entry(path: Path, told: Mapping[str, Any]) -> Entry:
    entry = {
        "path": str(path),
        "prompt": told["prompt"],
        "seed": int(told["seed"]),
        "mode": told["recipe"]["mode"],
    }
    return entry | ({"clip_score": told["clip_score"]} if "clip_score" in told else {})


def _write(path: Path, image: np.ndarray, about: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image, about))
    except OSError as error:
        raise UsageError(
            f"--out: {path.parent} cannot be written ({error}); give a folder that you may write"
        ) from None
