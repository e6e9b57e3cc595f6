"""Generate what ``corgi generate`` asks for, and write it with everything that it takes to generate it again."""

import itertools
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.config.messages import describe
from pipeline.errors import UsageError, full_disk
from pipeline.generation.models import find_run_of, open_system
from pipeline.generation.options import DEFAULT_STEPS, Options
from pipeline.generation.view import GenerationView
from pipeline.store import Store
from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.formats.generated_images import encode_png, read_png
from stages.generate.config import FilePrompts
from stages.generate.prompts import read_prompts
from stages.inference.generation import generate_groups, regenerate, settings_from
from stages.inference.requests import EditRequest, batch_row_from, fields_of, request_from
from stages.inference.sources import (
    Group,
    ImageSource,
    arithmetic_requests,
    edit_requests,
    interpolation_groups,
    read_end,
    read_image,
    text_groups,
    unconditional_groups,
    variation_groups,
)
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.publishing import write_new

Entry = dict[str, Any]
Sources = list[str] | int | ImageSource | tuple[ImageSource | str, ImageSource | str]


def generate_for_options(
    store: Store, options: Options, out: Path, view: GenerationView
) -> Generator[Entry, None, None]:
    """Generate what is asked for, one PNG each; yield path, prompt, seed and mode of every image when it is written."""
    try:
        if options.again is not None:
            yield _again(store, options, out, view)
        else:
            yield from _generate(store, options, out, view)
    except InputFault as error:
        raise UsageError(str(error)) from error


def _generate(store: Store, options: Options, out: Path, view: GenerationView) -> Iterator[Entry]:
    sources = _read_sources(options)
    system, run = open_system(store, str(options.run))
    if options.size is not None:
        system = _of_size(system, options.size)
    if options.mode == "edit":
        _require_edits(system, run)
    view.expect(_total(options, sources))
    number, settings = _first_free(out), system.settings.flat()
    try:
        for one in generate_groups(system, _groups(options, sources, system)):
            fields = fields_of(one.request, one.batch_row)
            fields |= {} if one.clip_score is None else {"clip_score": one.clip_score}
            number, path = _write_next(out, number, one.image, {**fields, "run": run, "settings": settings})
            view.count()
            yield _entry(path, fields)
    except ValueError as error:
        raise UsageError(f"generate: {error}") from error


def _total(options: Options, sources: Sources) -> int:
    """Return how many images are written."""
    if isinstance(sources, tuple):
        return options.steps or DEFAULT_STEPS
    asked = sources if isinstance(sources, int) else len(sources) if isinstance(sources, list) else 1
    return asked * (options.variations or 1) * (options.keep or 1)


def _of_size(system: TextToImageSystem, size: str) -> TextToImageSystem:
    try:
        return system.with_settings({"decoder_size": size})
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _read_sources(options: Options) -> Sources:
    """Read the user's texts and images, before any model is loaded."""
    match options.mode:
        case "text" if options.prompts is not None:
            return read_prompts(_file_of(options))
        case "text":
            return list(options.prompt)
        case "unconditional":
            return options.unconditional or 0
        case "interpolation":
            return read_end(options.start or "", "from"), read_end(options.end or "", "to")
        case _:
            path = Path(str(options.image))
            return read_image(path, f"--image {path}")


def _file_of(options: Options) -> FilePrompts:
    column = {} if options.column is None else {"column": options.column}
    try:
        return FilePrompts.model_validate({"kind": "file", "path": options.prompts, **column})
    except ValidationError as error:
        raise UsageError(describe(error, FilePrompts, "--prompts")) from None


def _groups(options: Options, sources: Sources, system: TextToImageSystem) -> Iterator[Group]:
    """Yield what is to be generated; images are numbered in this order, and each has the first seed plus its number."""
    seed, made, kept = options.seed or 0, options.candidates or 1, options.keep or 1
    seeds = range(seed, seed + made)
    if isinstance(sources, list):
        yield from text_groups(sources, seed, made, kept)
    elif isinstance(sources, int):
        yield from unconditional_groups(range(seed, seed + sources))
    elif isinstance(sources, tuple):
        yield from interpolation_groups(system, sources, options.steps or DEFAULT_STEPS, seed)
    elif options.edit is None:
        yield from variation_groups(system, sources, range(seed, seed + (options.variations or 1)))
    elif options.instead_of is None:
        edits = edit_requests(system, sources, options.edit, seeds, strength=options.used_strength)
        yield Group(edits, kept)
    else:
        texts = options.instead_of, options.edit
        moved = arithmetic_requests(system, sources, texts, seeds, strength=options.used_strength)
        yield Group(moved, kept)


def _again(store: Store, options: Options, out: Path, view: GenerationView) -> Entry:
    """Generate an image again from its own file, and compare the two."""
    file = Path(str(options.again))
    where = f"--again {shown(file)}"
    fields, before = read_png(file)
    request = request_from(fields, where)
    name = options.run
    if name is None:
        name = find_run_of(store, fields.get("run", ""), shown(file)).run
        view.loading(f"run {name}")
    try:
        batch_row, settings, prompt = batch_row_from(fields), settings_from(fields), fields["prompt"]
        system, run = open_system(store, name, batch_size=batch_row.size)
        system = system.with_settings(settings)
        if isinstance(request, EditRequest):
            _require_edits(system, run)
        view.expect(1)
        image = regenerate(system, request, batch_row)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{where}: cannot be generated again ({shown(error)}); use the version of corgi that made it"
        ) from error
    path = _write_beside(out, f"{file.stem}_again", image, fields)
    view.count()
    largest = int(np.abs(image.astype(int) - before.astype(int)).max()) if image.shape == before.shape else 255
    entry = _entry(path, fields_of(request, batch_row) | {"prompt": prompt})
    return {**entry, "pixel_equal": largest == 0, "largest_difference": largest}


def _require_edits(system: TextToImageSystem, run: str) -> None:
    if not system.can_edit:
        raise UsageError(
            f"--edit: the decoder of run {run} is of kind {system.decoder_kind}, which generates no image by "
            "denoising; allowed are pixel_diffusion, latent_diffusion and stable_diffusion; add --instead-of TEXT to "
            "edit by the embedding, or name another run"
        )


def _entry(path: Path, fields: Mapping[str, Any]) -> Entry:
    entry = {
        "path": str(path),
        "prompt": fields["prompt"],
        "seed": int(fields["seed"]),
        "mode": fields["recipe"]["mode"],
    }
    return entry | ({"clip_score": fields["clip_score"]} if "clip_score" in fields else {})


def _first_free(out: Path) -> int:
    """Return the number after the highest that an image in the folder has: nothing is written over."""
    numbers = [int(path.stem) for path in out.glob("[0-9]*.png") if path.stem.isdecimal() and len(path.stem) < 10]
    return max(numbers, default=-1) + 1


def _write_next(out: Path, number: int, image: np.ndarray, fields: Mapping[str, Any]) -> tuple[int, Path]:
    """Write an image under the first number from this one that is free; return the next number and the path."""
    while not _write(path := out / f"{number:05d}.png", image, fields):
        number += 1
    return number + 1, path


def _write_beside(out: Path, stem: str, image: np.ndarray, fields: Mapping[str, Any]) -> Path:
    """Write an image under the name, or with the first number after it that is free; return the path."""
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(path for name in names if _write(path := out / f"{name}.png", image, fields))


def _write(path: Path, image: np.ndarray, fields: Mapping[str, Any]) -> bool:
    """Write a whole file under a name that is free; return whether it was."""
    content = encode_png(image, fields)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_new(path, content)
    except FileExistsError:
        raise UsageError(f"--out: {path.parent} is no folder; give one that you may write") from None
    except OSError as error:
        if full_disk(error) is not None:
            raise
        raise UsageError(
            f"--out: {path.parent} cannot be written ({error}); give a folder that you may write"
        ) from None
