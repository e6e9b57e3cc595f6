"""Generated images of the tests' choice, and their evaluation."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.scenes.render import render_scenes
from models.scenes.scene import Scene, make_scenes
from stages.contract.events import Event
from stages.contract.stage import StageSummary
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.stage import run
from stages.formats.clips import write_clips
from stages.formats.generated_images import (
    GeneratedRecord,
    GeneratedRow,
    gather_rows,
    image_file,
    write_embeddings,
    writing_images,
)
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context

NUM = 96
SCENES = make_scenes(NUM, split="heldout")
MakeImages = Callable[[list[Scene]], np.ndarray]


def true_images(scenes: list[Scene]) -> np.ndarray:
    return render_scenes(scenes, 64).numpy()


def noise(scenes: list[Scene]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(scenes), 64, 64, 3), dtype=np.uint8)


def generated(
    folder: Path,
    sets: dict[str, MakeImages],
    clip: ClipConfig,
    *,
    with_scenes: bool = True,
    categories: Callable[[Scene], str] | None = None,
    num: int = NUM,
    shift: float = 0.0,
    photographs: MakeImages | None = None,
    unit_images: int = 64,
    prompts: Sequence[str] = (),
    normalised: bool = False,
) -> Artifact:
    """An artifact as generate leaves it, with images of the test's choice and the true embeddings, or shifted ones."""
    output = Output(str(folder), "generate", "g")
    encoder = ClipEncoder(clip, normalised=normalised)
    write_clips(output, encoder.identities.with_normalised() if normalised else encoder.identities)
    names: list[str] = []
    for name, make in sets.items():
        images = make(SCENES[:num])
        photographed = photographs(SCENES[:num]) if photographs is not None and not names else None
        for first in range(0, num, unit_images):
            last = min(first + unit_images, num)
            with writing_images(output, name, first, in_shards=False) as add:
                for index in range(first, last):
                    scene = SCENES[index]
                    fields = dataclasses.asdict(scene) if with_scenes else None
                    prompt = "" if name == "unconditional" else f"a {scene.color} {scene.shape}"
                    prompt = prompts[index] if prompts else prompt
                    row = GeneratedRow(name, index, image_file(name, index), prompt, index, {}, fields)
                    row = dataclasses.replace(row, categories={"Category": categories(scene)} if categories else {})
                    add(row, images[index], None if photographed is None else photographed[index])
            names.append(f"{name}-{first:06d}")
            true = encoder.encode_images(render_scenes(SCENES[first:last], 64))
            write_embeddings(output, name, first, true.numpy() + shift)
            GeneratedRecord(images=len(true), resolution=64).finish(output, names[-1])
    gather_rows(output, names)
    return output


def evaluate(
    folder: Path, clip: ClipConfig, source: Artifact, events: list[Event] | None = None, **fields: object
) -> StageSummary:
    output = Output(str(folder), "evaluate", "e")
    return run(make_config(clip, **fields), {"generate": source}, output, make_context(events))


def make_config(clip: ClipConfig, **fields: object) -> EvaluateConfig:
    """Take the tiny CLIP's features, unless others are given."""
    return EvaluateConfig.model_validate({"clip": clip, "features": {"kind": "clip"}, **fields})
