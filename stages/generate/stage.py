"""Draw every set of images, a chunk of prompts at a time."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from models.scenes import Scene, render_scenes
from stages.contract.events import LoggedImage, Progress
from stages.contract.stage import StageContext, StageSummary
from stages.encoders.config import with_trained
from stages.formats.image_grids import image_grid
from stages.generate.config import GenerateConfig, SetName
from stages.generate.prompts import Prompt, make_prompts
from stages.inference.loading import load_text_to_image
from stages.inference.sampling import SamplingSettings
from stages.inference.text_to_image import TextToImage, encode_png
from stages.storage.artifact import Artifact, Output

CHUNK = 64
GRID_IMAGES = 24
SAMPLES = "samples.jsonl"
GRID = "grid.png"
TIMING = "timing"  # apart from the records of units, which are the same bytes whenever the same is drawn


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
    """Draw what is not drawn yet.

    Raises:
        InputFault: the prompts or the encoders cannot be read.
        ArtifactError: prior, decoder and encoders do not belong together.
    """
    prompts = make_prompts(config.prompts)
    chunks = list(_chunks(config.chosen_sets, prompts))
    output.write_plan(len(chunks))
    done = output.done_units()
    todo = [chunk for chunk in chunks if chunk.unit not in done]
    total = len(prompts) * len(config.chosen_sets)
    generated = total - sum(len(chunk.prompts) for chunk in todo)
    context.emit(Progress(generated, total, "images", items=generated))
    if todo:
        device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
        system = load_text_to_image(
            with_trained(config.clip, inputs),
            inputs["train_prior"],
            inputs["train_decoder"],
            config.sampling,
            upsamplers=[inputs[name] for name in config.upsampler_stages],
            t5=config.t5,
            batch_size=config.batch_size,
            device=device,
        )
        for chunk in todo:
            _generate_chunk(chunk, system, config.seed, output)
            generated += len(chunk.prompts)
            context.emit(Progress(generated, total, "images", items=generated))
    _gather(config.chosen_sets, chunks, output, context)
    counts = {"prompts": len(prompts)}
    metrics, notes = _sampling_rate(chunks, config, output, context)
    return StageSummary(items=total, item_name="images", counts=counts, metrics=metrics, notes=notes)


def _sampling_rate(
    chunks: Sequence[Chunk], config: GenerateConfig, output: Output, context: StageContext
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the decoder's rate over all images, in whichever start they were drawn, and how it was measured."""
    spans = [output.read_json(f"{TIMING}/{chunk.unit}.json") for chunk in chunks]
    images, seconds = (sum(span[name] for span in spans) for name in ("images", "seconds"))
    allocation = context.resources
    device = "GPU" if allocation.gpus_per_worker > 0 else f"{allocation.cpus_per_worker} CPU"
    about = f"{device}, {min(config.batch_size, CHUNK)} at a time"
    return {"decoder/images_per_second": images / seconds}, {"decoder/images_per_second": about}


def _chunks(sets: Sequence[SetName], prompts: Sequence[Prompt]) -> Iterator[Chunk]:
    for name in sets:
        for first in range(0, len(prompts), CHUNK):
            yield Chunk(name, first, prompts[first : first + CHUNK])


def _generate_chunk(chunk: Chunk, system: TextToImage, seed: int, output: Output) -> None:
    """Write the chunk's images and the embeddings that they were drawn from, then its record."""
    seeds = [seed + chunk.first + number for number in range(len(chunk.prompts))]
    embeddings = _embeddings(chunk, system, seeds)
    prompts = None if chunk.set == "reconstruction" else [prompt.text for prompt in chunk.prompts]
    begun = system.clock.seconds
    images = system.decode(embeddings, seeds, prompts)
    seconds = system.clock.seconds - begun
    rows = []
    for number, (prompt, image) in enumerate(zip(chunk.prompts, images, strict=True)):
        row = _describe(chunk, number, prompt, seeds[number], system.settings)
        output.write_bytes(row["file"], encode_png(image, row | {"run": output.fingerprint}))
        rows.append(row)
    buffer = io.BytesIO()
    np.save(buffer, embeddings.float().numpy())
    output.write_bytes(f"embeddings/{chunk.set}/{chunk.first:06d}.npy", buffer.getvalue())
    output.write_json(f"{TIMING}/{chunk.unit}.json", {"images": len(rows), "seconds": seconds})
    output.finish_unit(chunk.unit, {"rows": rows})


def _embeddings(chunk: Chunk, system: TextToImage, seeds: Sequence[int]) -> Float[Tensor, "batch embed"]:
    if chunk.set == "reconstruction":
        scenes = [Scene(**prompt.scene) for prompt in chunk.prompts if prompt.scene is not None]
        return system.encoder.encode_images(render_scenes(scenes, system.resolution))
    texts = [prompt.text for prompt in chunk.prompts]
    return system.imagine(texts, seeds) if chunk.set == "prior" else system.encode(texts)


def _describe(chunk: Chunk, number: int, prompt: Prompt, seed: int, settings: SamplingSettings) -> dict[str, Any]:
    index = chunk.first + number
    return {
        "set": chunk.set,
        "index": index,
        "file": f"images/{chunk.set}/{index:05d}.png",
        "prompt": prompt.text,
        "seed": seed,
        "settings": settings.flat(),
        "scene": None if prompt.scene is None else dict(prompt.scene),
    }


def _gather(sets: Sequence[SetName], chunks: Sequence[Chunk], output: Output, context: StageContext) -> None:
    """Write the list of all images, and show the beginning of every set."""
    units = output.done_units()
    rows = [row for chunk in chunks for row in units[chunk.unit]["rows"]]
    output.write_bytes(SAMPLES, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())
    for name in sets:
        grid = _grid([row for row in rows if row["set"] == name][:GRID_IMAGES], output)
        output.write_bytes(GRID if name == sets[0] else f"grid_{name}.png", grid)
        context.emit(LoggedImage(f"grid_{name}", grid))


def _grid(rows: Sequence[Mapping[str, Any]], output: Output) -> bytes:
    images = []
    for row in rows:
        with output.open(row["file"]) as file, Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB")))
    return image_grid(np.stack(images), [row["prompt"] for row in rows])
