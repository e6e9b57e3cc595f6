"""Measure the generated images, unit by unit, and write the figures of all."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.contract.digests import folder_files
from stages.contract.errors import InputFault
from stages.contract.events import LoggedImage
from stages.contract.stage import StageContext, StageSummary
from stages.encoders.config import ClipConfig
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.plots import confusion_plot
from stages.evaluate.records import EvaluatedUnit, EvaluateRecord
from stages.evaluate.reduction import Reduction
from stages.evaluate.results import Results
from stages.evaluate.worker import ImageUnit
from stages.formats.generated_images import GeneratedRecord, GeneratedUnit, list_units
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import UnitList, UnitRunner

FEWEST_FILES = 2
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FILES_AT_ONCE = 256  # of a folder of true images, in a unit


def run(config: EvaluateConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Evaluate every set that was generated."""
    generated = inputs["generate"]
    sets = _sets(generated)
    real = list(_real_units(config.real, generated))
    main = next(iter(sets))
    items = [ImageUnit(unit, is_main=unit.set == main) for units in sets.values() for unit in units]
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    records = UnitRunner(
        output=output,
        units=UnitList([*items, *real]),
        kind=EvaluateRecord,
        records=EvaluateRecord.done(output),
        make_worker=functools.partial(_make_worker, config, inputs, output, device),
        resources=context.resources.for_shards(),
        unit="units of images",
    ).run(context)
    true = [EvaluatedUnit(one.name, len(one.files)) for one in real]
    reduction = Reduction(config, generated, output, records, sets, true)
    results = reduction.results(context.emit)
    _plot(reduction, output, context)
    output.write_json("metrics.json", _document(config, sets, results))
    return StageSummary(
        items=sum(unit.count for unit in sets[main]),
        item_name="images",
        metrics=results.metrics,
        notes=results.notes,
        measures=results.measures,
        protocols=results.protocols,
    )


def _make_worker(
    config: EvaluateConfig, inputs: Mapping[str, Artifact], output: Output, device: str
) -> Callable[[ImageUnit], EvaluateRecord]:
    """Make the worker in its own process: networks are loaded there only."""
    from stages.evaluate.worker import make_evaluate_worker

    return make_evaluate_worker(config, inputs, output, device=device)


def _sets(generated: Artifact) -> dict[str, list[GeneratedUnit]]:
    """Return the units of each set, in the order in which they were generated."""
    sets: dict[str, list[GeneratedUnit]] = {}
    for unit in list_units(generated):
        sets.setdefault(unit.set, []).append(unit)
    return sets


def _real_units(folder: Path | None, generated: Artifact) -> Iterator[ImageUnit]:
    """Yield the images of a folder, and of those in it, in units."""
    if folder is None:
        return
    files = [path for path in folder_files(folder).values() if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(files) < FEWEST_FILES:
        raise InputFault(
            f"evaluate.real: {folder} holds {len(files)} images ({', '.join(IMAGE_SUFFIXES)}): allowed are "
            f"{FEWEST_FILES} or more: give a folder of true images"
        )
    resolution = next(iter(GeneratedRecord.done(generated).values())).resolution
    for first in range(0, len(files), _FILES_AT_ONCE):
        some = tuple(files[first : first + _FILES_AT_ONCE])
        yield ImageUnit(GeneratedUnit("real", first, len(some)), some, resolution)


def _plot(reduction: Reduction, output: Output, context: StageContext) -> None:
    """Write and report what of the scenes was asked and read, for the prior's set."""
    readings = reduction.readings("prior") if "prior" in reduction.units else None
    if readings is not None:
        plot = confusion_plot(readings)
        output.write_bytes("confusion.png", plot)
        context.emit(LoggedImage("confusion", plot))


def _document(config: EvaluateConfig, sets: Mapping[str, Sequence[GeneratedUnit]], results: Results) -> dict[str, Any]:
    return {
        "metrics": results.metrics,
        "measures": {name: asdict(measure) for name, measure in results.measures.items()},
        "protocols": results.protocols,
        "num_images": {name: sum(unit.count for unit in units) for name, units in sets.items()},
        "evaluated_set": next(iter(sets)),
        "clip_score_models": {
            "conditioning": _references(config.clip),
            "independent": _references(config.independent_clip),
        },
        "notes": results.notes,
    }


def _references(clip: ClipConfig | None) -> list[str]:
    return [] if clip is None else [model.reference for model in clip.models]
