"""Generate every set of images, a unit of prompts at a time, by any number of workers."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

from stages.contract.events import LoggedImage
from stages.contract.stage import StageContext, StageSummary
from stages.formats.generated_clips import write_generated_clips
from stages.formats.generated_images import (
    GRID,
    GeneratedRecord,
    gather_rows,
    read_rate,
    read_unit_rows,
    write_grid,
)
from stages.generate.config import FILTER, CaptionPrompts, GenerateConfig
from stages.generate.prompts import Prompt, caption_prompts, make_prompts
from stages.generate.units import CHUNK, PromptUnit, divide
from stages.storage.artifact import Artifact, Output
from stages.streaming.reuse import MadeUnits, Reused, made_units
from stages.streaming.runner import UnitList, UnitRunner

GRID_IMAGES = 24


def run(config: GenerateConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Generate what is missing."""
    prompts = stage_prompts(config, inputs)
    write_generated_clips(output, inputs["train_decoder"])
    units = divide(config, prompts)
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    made = made_units(GeneratedRecord, context.earlier)
    runner = UnitRunner(
        output=output,
        units=UnitList(units),
        kind=GeneratedRecord,
        records=GeneratedRecord.done(output),
        make_worker=functools.partial(_make_worker, config, inputs, output, device=device, made=made),
        resources=context.resources.for_shards(),
        unit="units of prompts",
    )
    records = runner.run(context)
    _gather(config, units, output, context)
    metrics, notes = _sampling_rate(units, config, output, context)
    total = len(prompts) * len(config.chosen_sets)
    reused = sum(record.images for record in records.values() if record.made_from in made)
    counts = {"prompts": len(prompts)} | ({"reused_images": reused} if reused else {})
    return StageSummary(items=total, item_name="images", counts=counts, metrics=metrics, notes=notes)


def _make_worker(
    config: GenerateConfig, inputs: Mapping[str, Artifact], output: Output, *, device: str, made: MadeUnits
) -> Callable[[PromptUnit], GeneratedRecord | Reused[GeneratedRecord]]:
    """Make the worker in its own process: models are loaded there only."""
    from stages.generate.worker import make_generate_worker

    return make_generate_worker(config, inputs, output, device=device, made=made)


def stage_prompts(config: GenerateConfig, inputs: Mapping[str, Artifact]) -> list[Prompt]:
    """Return the section's prompts; those of images of the shards are of none that filter_samples removed."""
    if isinstance(config.prompts, CaptionPrompts):
        return caption_prompts(config.prompts, config.split, inputs["download_shards"], inputs.get(FILTER))
    return make_prompts(config.prompts)


def _sampling_rate(
    units: Sequence[PromptUnit], config: GenerateConfig, output: Output, context: StageContext
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the decoder's rate over all images, whichever start of the stage made them, and how it was measured."""
    allocation = context.resources
    device = "GPU" if allocation.gpus_per_worker > 0 else f"{allocation.cpus_per_worker} CPU"
    about = f"{device}, {min(config.batch_size, CHUNK)} at a time"
    rate = read_rate(output, [unit.name for unit in units])
    return {"decoder/images_per_second": rate}, {"decoder/images_per_second": about}


def _gather(config: GenerateConfig, units: Sequence[PromptUnit], output: Output, context: StageContext) -> None:
    """Write the list of all images, and a grid of the first ones of every set."""
    gather_rows(output, (unit.name for unit in units))
    for name in config.chosen_sets:
        rows = itertools.chain.from_iterable(read_unit_rows(output, unit.name) for unit in units if unit.set == name)
        first = list(itertools.islice(rows, GRID_IMAGES))
        grid = write_grid(output, first, GRID if name == config.chosen_sets[0] else f"grid_{name}.png")
        context.emit(LoggedImage(f"grid_{name}", grid))
