"""Generate every set of images, a chunk of prompts at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from stages.contract.events import LoggedImage, Progress
from stages.contract.stage import StageContext, StageSummary
from stages.encoders.config import local_clips
from stages.formats.generated_images import (
    GRID,
    GeneratedRow,
    image_file,
    read_rate,
    write_embeddings,
    write_grid,
    write_image,
    write_rows,
    write_timing,
    write_true_images,
)
from stages.generate.config import CaptionPrompts, GenerateConfig, SetName
from stages.generate.prompts import Prompt, caption_prompts, make_prompts
from stages.inference.loading import load_text_to_image
from stages.inference.sampling import SamplingSettings
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact, Output
from stages.training.images.shard_images import ImageRows, ShardImages

CHUNK = 64
GRID_IMAGES = 24


@dataclass(frozen=True)
class Chunk:
    """A unit of work: consecutive prompts of one set."""

    set: SetName
    first: int
    prompts: Sequence[Prompt]

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return f"{self.set}-{self.first:06d}"


def run(config: GenerateConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Generate what is missing."""
    prompts = _prompts(config, inputs)
    chunks = list(_chunks(config.chosen_sets, prompts))
    output.write_plan(len(chunks))
    done = output.done_units()
    todo = [chunk for chunk in chunks if chunk.unit not in done]
    total = len(prompts) * len(config.chosen_sets)
    generated = total - sum(len(chunk.prompts) for chunk in todo)
    context.emit(Progress(generated, total, "images", items=generated))
    if todo:
        device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
        system = load_system(config, inputs, device=device)
        true = _TrueImages(inputs.get("download_shards"), system.resolution)
        for chunk in todo:
            _generate_chunk(chunk, system, true, seed=config.seed, output=output)
            generated += len(chunk.prompts)
            context.emit(Progress(generated, total, "images", items=generated))
    _gather(config.chosen_sets, chunks, output, context)
    counts = {"prompts": len(prompts)}
    metrics, notes = _sampling_rate(chunks, config, output, context)
    return StageSummary(items=total, item_name="images", counts=counts, metrics=metrics, notes=notes)


def _prompts(config: GenerateConfig, inputs: Mapping[str, Artifact]) -> list[Prompt]:
    if isinstance(config.prompts, CaptionPrompts):
        return caption_prompts(config.prompts, config.split, inputs["download_shards"])
    return make_prompts(config.prompts)


@dataclass(frozen=True)
class _TrueImages:
    """The images that prompts describe: rendered scenes, or those whose captions they are."""

    shards: Artifact | None
    resolution: int

    def of(self, prompts: Sequence[Prompt]) -> UInt8[Tensor, "batch height width 3"] | None:
        """Return them as squares; None: the prompts have none."""
        scenes = [Scene(**prompt.scene) for prompt in prompts if prompt.scene is not None]
        if scenes:
            return render_scenes(scenes, self.resolution)
        photographs = self.photographs(prompts)
        return None if photographs is None else torch.from_numpy(photographs)

    def photographs(self, prompts: Sequence[Prompt]) -> ImageRows | None:
        """Return those whose captions the prompts are; None: they are no image's."""
        samples = [prompt.sample for prompt in prompts if prompt.sample is not None]
        if self.shards is None or not samples:
            return None
        return ShardImages(self.shards, resolution=self.resolution, cache_bytes=0).read(samples)


def load_system(
    config: GenerateConfig, inputs: Mapping[str, Artifact], *, device: str, batch_size: int | None = None
) -> TextToImageSystem:
    """Load the trained models, with the solvers and encoders of the section."""
    return load_text_to_image(
        local_clips(config.clip, inputs),
        inputs["train_prior"],
        inputs["train_decoder"],
        config.sampling,
        upsamplers=[inputs[name] for name in config.upsampler_stages],
        text_models=config.text_models,
        batch_size=batch_size or config.batch_size,
        device=device,
    )


def _sampling_rate(
    chunks: Sequence[Chunk], config: GenerateConfig, output: Output, context: StageContext
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the decoder's rate over all images, whichever start of the stage made them, and how it was measured."""
    allocation = context.resources
    device = "GPU" if allocation.gpus_per_worker > 0 else f"{allocation.cpus_per_worker} CPU"
    about = f"{device}, {min(config.batch_size, CHUNK)} at a time"
    rate = read_rate(output, [chunk.unit for chunk in chunks])
    return {"decoder/images_per_second": rate}, {"decoder/images_per_second": about}


def _chunks(sets: Sequence[SetName], prompts: Sequence[Prompt]) -> Iterator[Chunk]:
    for name in sets:
        for first in range(0, len(prompts), CHUNK):
            yield Chunk(name, first, prompts[first : first + CHUNK])


def _generate_chunk(chunk: Chunk, system: TextToImageSystem, true: _TrueImages, *, seed: int, output: Output) -> None:
    """Write the chunk's images and the embeddings that they were generated from, then its record.

    Beside those of the prior stand the true images, where these are the experiment's own.
    """
    seeds = [seed + chunk.first + number for number in range(len(chunk.prompts))]
    embeddings = _embeddings(chunk, system, true, seeds)
    prompts = None if chunk.set in ("reconstruction", "unconditional") else [prompt.text for prompt in chunk.prompts]
    begun = system.clock.seconds
    images = system.decode(embeddings, seeds, prompts)
    seconds = system.clock.seconds - begun
    rows = [_row(chunk, number, seeds[number], system.settings) for number in range(len(seeds))]
    write_timing(output, chunk.unit, len(rows), seconds)  # of no unit's record: it differs from run to run
    with output.collecting():
        for row, image in zip(rows, images, strict=True):
            write_image(output, row, image)
        write_embeddings(output, chunk.set, chunk.first, embeddings.float().numpy())
        if chunk.set == "prior" and (photographs := true.photographs(chunk.prompts)) is not None:
            write_true_images(output, chunk.first, photographs)
        output.finish_unit(chunk.unit, {"rows": [asdict(row) for row in rows]})


def _embeddings(
    chunk: Chunk, system: TextToImageSystem, true: _TrueImages, seeds: Sequence[int]
) -> Float[Tensor, "batch embed"]:
    if chunk.set == "reconstruction" and (images := true.of(chunk.prompts)) is not None:
        return system.encoder.encode_images(images)
    if chunk.set == "unconditional":
        return system.imagine_without_prompts(seeds)
    texts = [prompt.text for prompt in chunk.prompts]
    return system.imagine(texts, seeds) if chunk.set == "prior" else system.encode(texts)


def _row(chunk: Chunk, number: int, seed: int, settings: SamplingSettings) -> GeneratedRow:
    index, prompt = chunk.first + number, chunk.prompts[number]
    file = image_file(chunk.set, index)
    return GeneratedRow(chunk.set, index, file, prompt.text, seed, settings.flat(), prompt.scene)


def _gather(sets: Sequence[SetName], chunks: Sequence[Chunk], output: Output, context: StageContext) -> None:
    """Write the list of all images, and a grid of the first ones of every set."""
    units = output.done_units()
    rows = [GeneratedRow(**row) for chunk in chunks for row in units[chunk.unit]["rows"]]
    write_rows(output, rows)
    for name in sets:
        first = [row for row in rows if row.set == name][:GRID_IMAGES]
        grid = write_grid(output, first, GRID if name == sets[0] else f"grid_{name}.png")
        context.emit(LoggedImage(f"grid_{name}", grid))
