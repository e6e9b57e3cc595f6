"""Measure the generated images and write the figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from models.similarity import block_cosine, embedding_report
from stages.contract.events import LoggedImage, Progress
from stages.contract.stage import StageContext, StageSummary
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, local_clips
from stages.evaluate.config import EvaluateConfig, InceptionFeatures
from stages.evaluate.frechet import FEWEST, Inception, batches_of, distances, read_folder
from stages.evaluate.plots import confusion_plot
from stages.evaluate.scene_measures import CHANCE, read_scenes
from stages.formats.clips import ClipIdentity
from stages.formats.generated_images import (
    GeneratedRow,
    read_embeddings,
    read_images,
    read_rows,
    read_true_images,
)
from stages.storage.artifact import Artifact, Output

PREFIXES = {"prior": "accuracy", "text_embedding": "control/text_embedding", "reconstruction": "reconstruction"}
UNRELATED = "control/unrelated"
WITHOUT_PROMPTS = "unconditional"
_NO_PROMPTS = "the images were generated from no prompts"
Figures = dict[str, float]


@dataclass(frozen=True)
class GeneratedSet:
    """The images of one set with their prompts; ``scenes`` where the prompts describe scenes."""

    name: str
    prompts: Sequence[str]
    images: UInt8[np.ndarray, "batch height width 3"]
    scenes: Sequence[Scene] | None
    photographs: UInt8[np.ndarray, "batch height width 3"] | None = None
    """The images whose captions the prompts are, where they are some."""

    def true_images(self) -> UInt8[np.ndarray, "batch height width 3"] | None:
        """Return an image for each prompt that is what it describes; None: there are none."""
        if self.scenes is None:
            return self.photographs
        rendered: UInt8[np.ndarray, "batch height width 3"] = render_scenes(self.scenes, self.images.shape[1]).numpy()
        return rendered


def run(config: EvaluateConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Evaluate every set that was generated."""
    generated = inputs["generate"]
    sets = read_sets(generated)
    total = sum(len(one.prompts) for one in sets)
    context.emit(Progress(0, total, "images"))
    figures: Figures = {}
    for one in sets:
        figures |= _evaluate_scenes(one, output, context)
    main = sets[0]
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    encoder = _BatchEncoder(local_clips(config.clip, inputs), config.batch_size, device)
    seen = encoder.images(main.images)
    has_prompts = main.name != WITHOUT_PROMPTS
    if has_prompts:
        figures |= _evaluate_by_clip(main, seen, encoder, generated)
    notes = {"clip_score/conditioning": encoder.name if has_prompts else _NO_PROMPTS}
    if config.independent_clip is not None:
        encoder = _BatchEncoder(local_clips(config.independent_clip, inputs), config.batch_size, device)
        seen = encoder.images(main.images)
        figures |= {"clip_score/independent": encoder.score(main, seen)} if has_prompts else {}
        notes["clip_score/independent"] = encoder.name if has_prompts else _NO_PROMPTS
    found, notes["frechet_distance"] = _distances_to_true(main, seen, encoder, config, device)
    figures |= found
    output.write_json("metrics.json", _document(config, sets, figures) | {"notes": notes})
    context.emit(Progress(total, total, "images", items=total))
    return StageSummary(items=len(main.prompts), item_name="images", metrics=figures, notes=notes)


def read_sets(generated: Artifact) -> list[GeneratedSet]:
    """Read all sets, in the order in which they were generated."""
    rows = read_rows(generated)
    return [
        _read_set(generated, name, [row for row in rows if row.set == name])
        for name in dict.fromkeys(row.set for row in rows)
    ]


def _read_set(generated: Artifact, name: str, rows: Sequence[GeneratedRow]) -> GeneratedSet:
    scenes = [Scene(**row.scene) for row in rows if row.scene is not None]
    prompts = [row.prompt for row in rows]
    described = scenes if len(scenes) == len(rows) else None
    true = None if described is not None else read_true_images(generated, len(rows))
    return GeneratedSet(name, prompts, read_images(generated, rows), described, true)


def _evaluate_scenes(generated: GeneratedSet, output: Output, context: StageContext) -> Figures:
    """Return the checker's accuracies; for the prior's set also the unrelated control, and a plot."""
    if generated.scenes is None:
        return {}
    readings = read_scenes(generated.images, generated.scenes)
    figures = {f"{PREFIXES[generated.name]}/{name}": value for name, value in readings.accuracy().items()}
    if generated.name == "prior":
        figures |= {f"chance/{name}": value for name, value in CHANCE.items()}
        if len(generated.prompts) > 1:
            figures |= {f"{UNRELATED}/{name}": value for name, value in readings.unrelated_accuracy().items()}
        plot = confusion_plot(readings)
        output.write_bytes("confusion.png", plot)
        context.emit(LoggedImage("confusion", plot))
    return figures


def _distances_to_true(
    generated: GeneratedSet,
    seen: Float[Tensor, "batch embed"],
    encoder: "_BatchEncoder",
    config: EvaluateConfig,
    device: str,
) -> tuple[Figures, str]:
    """Return the distances to the true images, and under which features; none, and why they are not known."""
    count, resolution = len(generated.prompts), generated.images.shape[1]
    if count < FEWEST:
        return {}, f"{count} image generated: {FEWEST} or more have a distribution"
    if config.real is not None:
        true = read_folder(config.real, resolution, config.batch_size)
    elif (images := generated.true_images()) is not None:
        true = batches_of(images, config.batch_size)
    else:
        return {}, "the prompts have no true images: set evaluate.real"
    if isinstance(config.features, InceptionFeatures):
        inception = Inception(config.features.path, device)
        seen, rows = inception(batches_of(generated.images, config.batch_size)), inception(true)
        name = "Inception-v3"
    else:
        rows, name = torch.cat([encoder.images(images) for images in true]), encoder.name
    return distances(seen, rows), f"{name}, {count} images, {len(rows)} true ones"


def _evaluate_by_clip(
    generated: GeneratedSet, seen: Float[Tensor, "batch embed"], encoder: "_BatchEncoder", artifact: Artifact
) -> Figures:
    """Return the CLIP score, and how near images and the prior's embeddings are to the true ones where there are some.

    A cosine to the truth alone can be gamed (the mean wins), so the unrelated one, norm and variance stand beside it.
    """
    figures = {"clip_score/conditioning": encoder.score(generated, seen)}
    images = generated.true_images()
    if images is None or len(generated.prompts) < 2:
        return figures
    true = encoder.images(images)
    image_report = embedding_report(seen, true, encoder.block_dims)
    figures |= {
        "cosine/image_true": image_report["cosine_true"],
        "cosine/image_unrelated": image_report["cosine_unrelated"],
    }
    report = embedding_report(torch.from_numpy(read_embeddings(artifact, generated.name)), true, encoder.block_dims)
    figures |= {"cosine/true": report.pop("cosine_true"), "cosine/unrelated": report.pop("cosine_unrelated")}
    return figures | {f"embedding/{name}": value for name, value in report.items()}


class _BatchEncoder:
    """A CLIP encoder that takes any number of images."""

    def __init__(self, clip: ClipConfig, batch_size: int, device: str) -> None:
        self._encoder, self._batch_size = ClipEncoder(clip, device=device), batch_size
        self.block_dims = self._encoder.block_dims
        self.name = "CLIP " + " + ".join(_format(identity) for identity in self._encoder.identities)

    def images(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch embed"]:
        """Encode the images."""
        starts = range(0, len(images), self._batch_size)
        return torch.cat([self._encoder.encode_images(images[s : s + self._batch_size]) for s in starts])

    def score(self, generated: GeneratedSet, seen: Float[Tensor, "batch embed"]) -> float:
        """Return the CLIP score 100 max(cos, 0) of images and prompts, the cosine averaged over the models."""
        starts = range(0, len(generated.prompts), self._batch_size)
        texts = torch.cat([self._encoder.encode_texts(generated.prompts[s : s + self._batch_size]) for s in starts])
        return float(100 * block_cosine(seen, texts, self.block_dims).clamp_min(0).mean())


def _document(config: EvaluateConfig, sets: Sequence[GeneratedSet], figures: Figures) -> dict[str, Any]:
    return {
        "metrics": figures,
        "num_images": {one.name: len(one.prompts) for one in sets},
        "evaluated_set": sets[0].name,
        "clip_score_models": {
            "conditioning": _references(config.clip),
            "independent": _references(config.independent_clip),
        },
    }


def _references(clip: ClipConfig | None) -> list[str]:
    return [] if clip is None else [model.reference for model in clip.models]


def _format(identity: ClipIdentity) -> str:
    """Return a CLIP model's name, without the path of its folder, and the beginning of its digest."""
    reference = Path(identity.reference)
    return f"{reference.name if reference.is_absolute() else reference} ({identity.digest[:8]})"
