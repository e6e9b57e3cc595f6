"""Generate one unit of images, some prompts at a time: what an image is does not depend on the unit that it is in."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cluster.item_progress import note_samples
from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from stages.contract.errors import ArtifactError, InputFault
from stages.encoders.config import local_clips
from stages.formats.generated_images import (
    GeneratedRecord,
    GeneratedRow,
    GeneratedUnit,
    image_file,
    read_images,
    read_timing,
    read_unit_embeddings,
    read_unit_rows,
    write_embeddings,
    write_timing,
    writing_images,
)
from stages.generate.config import GenerateConfig
from stages.generate.prompts import Prompt
from stages.generate.retrieval import make_index
from stages.generate.units import CHUNK, PromptUnit
from stages.inference.loading import TrainedModels, load_text_to_image
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact, Output
from stages.streaming.reuse import MadeUnits, Reused
from stages.training.images.shard_images import ImageRows, ShardImages

_log = logging.getLogger(__name__)


def trained_models(config: GenerateConfig, inputs: Mapping[str, Artifact]) -> TrainedModels:
    """Return what the section's system is put together from."""
    return TrainedModels(
        local_clips(config.clip, inputs),
        inputs["train_prior"],
        inputs["train_decoder"],
        [inputs[name] for name in config.upsampler_stages],
        config.text_models,
        make_index(config, inputs),
    )


def load_system(
    config: GenerateConfig, inputs: Mapping[str, Artifact], *, device: str, batch_size: int | None = None
) -> TextToImageSystem:
    """Load the trained models, with the solvers and encoders of the section."""
    models = trained_models(config, inputs)
    return load_text_to_image(models, config.sampling, batch_size=batch_size or config.batch_size, device=device)


def make_generate_worker(
    config: GenerateConfig, inputs: Mapping[str, Artifact], output: Output, *, device: str, made: MadeUnits
) -> Callable[[PromptUnit], GeneratedRecord | Reused[GeneratedRecord]]:
    """Load the models, and return the function that generates the images of a unit, or takes them from where they are.

    ``made`` holds units of control sets that other artifacts of the recipe have, by what they were made from.
    """
    system = load_system(config, inputs, device=device)
    worker = _Worker(config, system, _TrueImages(inputs.get("download_shards"), system.resolution), output, made)
    return worker.generate


@dataclass(frozen=True)
class _TrueImages:
    """The images that prompts describe: rendered scenes, or those whose captions they are."""

    shards: Artifact | None
    resolution: int

    def of(self, prompts: Sequence[Prompt]) -> UInt8[Tensor, "batch height width 3"]:
        """Return them as squares."""
        scenes = [Scene(**prompt.scene) for prompt in prompts if prompt.scene is not None]
        if scenes:
            return render_scenes(scenes, self.resolution)
        photographs = self.photographs(prompts)
        if photographs is None:
            raise InputFault("generate.sets: reconstruction needs true images, and the prompts have none: leave it out")
        return torch.from_numpy(photographs)

    def photographs(self, prompts: Sequence[Prompt]) -> ImageRows | None:
        """Return those whose captions the prompts are; None: they are no image's."""
        samples = [prompt.sample for prompt in prompts if prompt.sample is not None]
        if self.shards is None or not samples:
            return None
        return ShardImages(self.shards, resolution=self.resolution, cache_bytes=0).read(samples)


_Images = tuple[Float[np.ndarray, "batch embed"], UInt8[np.ndarray, "batch height width 3"], float]
"""Embeddings, images, and the seconds that the decoder took."""
ImagesOf = Callable[[PromptUnit], _Images]


class _Made:
    """The images of a unit that another artifact has."""

    def __init__(self, artifact: Artifact, name: str, unit: PromptUnit) -> None:
        self._artifact, self._first = artifact, unit.first
        self._rows = read_unit_rows(artifact, name)
        self._embeddings = read_unit_embeddings(artifact, GeneratedUnit(unit.set, unit.first, len(unit.prompts)))
        images, seconds = read_timing(artifact, name)
        self._seconds = seconds / max(images, 1)
        if not len(self._rows) == len(self._embeddings) == len(unit.prompts):
            raise ArtifactError(f"generate: {artifact.uri}: unit {name} has another number of images: made anew")

    def images(self, chunk: PromptUnit) -> _Images:
        """Return those of some of its prompts."""
        part = slice(chunk.first - self._first, chunk.first - self._first + len(chunk.prompts))
        found = read_images(self._artifact, self._rows[part])
        return self._embeddings[part], found, self._seconds * len(chunk.prompts)


@dataclass(frozen=True)
class _Worker:
    config: GenerateConfig
    system: TextToImageSystem
    true: _TrueImages
    output: Output
    made: MadeUnits

    def generate(self, unit: PromptUnit) -> GeneratedRecord | Reused[GeneratedRecord]:
        """Write the unit's images and the embeddings that they were generated from.

        Beside those of the first set stand the true images, where these are the experiment's own. Images that are taken
        from another artifact get this one's settings: the same files come out as if they were generated.
        """
        if unit.made_from in self.made:
            try:
                return Reused(self._write(unit, _Made(*self.made[unit.made_from], unit).images))
            except ArtifactError as error:
                _log.warning("%s: unit %s is generated again", str(error).partition(": expected")[0], unit.name)
        return self._write(unit, self._images)

    def _write(self, unit: PromptUnit, images_of: ImagesOf) -> GeneratedRecord:
        embeddings: list[Float[np.ndarray, "batch embed"]] = []
        seconds, in_shards = 0.0, unit.in_shards
        with writing_images(self.output, unit.set, unit.first, in_shards=in_shards) as add:
            for chunk in _chunks(unit):
                generated, images, taken = images_of(chunk)
                embeddings.append(generated)
                note_samples(sum(map(len, embeddings)))
                seconds += taken
                photographs = self.true.photographs(chunk.prompts) if unit.set == self.config.chosen_sets[0] else None
                for number, image in enumerate(images):
                    row = self._row(chunk, number, in_shards=in_shards)
                    add(row, image, None if photographs is None else photographs[number])
        write_embeddings(self.output, unit.set, unit.first, np.concatenate(embeddings))
        with self.output.collecting():  # apart: a unit's record is the same bytes whenever the same is generated
            write_timing(self.output, unit.name, len(unit.prompts), seconds)
        return GeneratedRecord(images=len(unit.prompts), resolution=self.system.resolution, made_from=unit.made_from)

    def _images(self, chunk: PromptUnit) -> _Images:
        """Return the chunk's embeddings and images, and the seconds that the decoder took."""
        seeds = [self.config.seed + chunk.first + number for number in range(len(chunk.prompts))]
        embeddings = self._embeddings(chunk, seeds)
        has_text = chunk.set not in ("reconstruction", "unconditional")
        begun = self.system.clock.seconds
        images = self.system.decode(embeddings, seeds, [one.text for one in chunk.prompts] if has_text else None)
        return embeddings.float().numpy(), images, self.system.clock.seconds - begun

    def _embeddings(self, chunk: PromptUnit, seeds: Sequence[int]) -> Float[Tensor, "batch embed"]:
        if chunk.set == "reconstruction":
            return self.system.images.encode_images(self.true.of(chunk.prompts))
        if chunk.set == "unconditional":
            return self.system.imagine_without_prompts(seeds)
        texts = [prompt.text for prompt in chunk.prompts]
        return self.system.imagine(texts, seeds) if chunk.set == "prior" else self.system.encode_as_images(texts)

    def _row(self, chunk: PromptUnit, number: int, *, in_shards: bool) -> GeneratedRow:
        index, prompt = chunk.first + number, chunk.prompts[number]
        return GeneratedRow(
            chunk.set,
            index,
            image_file(chunk.set, index, in_shards=in_shards),
            prompt.text,
            self.config.seed + index,
            self.system.settings.flat(),
            prompt.scene,
            prompt.categories,
        )


def _chunks(unit: PromptUnit) -> Iterator[PromptUnit]:
    """Cut a unit into what is sampled together; the cuts lie at the same images in units of any size."""
    for start in range(0, len(unit.prompts), CHUNK):
        prompts = unit.prompts[start : start + CHUNK]
        yield replace(unit, first=unit.first + start, prompts=prompts)
