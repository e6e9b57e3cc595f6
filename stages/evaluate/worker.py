"""Evaluate one unit of images: their features under every network, and the scores of each by itself."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from cluster.item_progress import note_samples
from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from models.similarity import block_cosine
from stages.contract.errors import InputFault
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, local_clips
from stages.encoders.features.config import ClipFeatures
from stages.encoders.features.networks import FeatureNetwork, clip_network, image_network, load_network
from stages.encoders.image_encoder import VisionEncoder
from stages.encoders.image_to_text.question_answering import ReplyScorer
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.records import (
    GENERATED,
    REAL,
    TRUE,
    EvaluateRecord,
    NetworkIdentity,
    content_of,
    write_features,
    write_scores,
)
from stages.evaluate.scene_measures import read_scenes
from stages.formats.generated_images import (
    GeneratedRow,
    GeneratedUnit,
    read_images,
    read_true_images,
    read_unit_rows,
)
from stages.formats.images import decode_image, square
from stages.storage.artifact import Artifact, Output

CONDITIONING, INDEPENDENT, FEATURES, IMAGES = "clip", "independent", "features", "images"
QUESTIONS = "question_answering"
VQA_SCORE, UNRELATED_VQA_SCORE = "vqa_score", "vqa_score/unrelated"
SCORE_NAMES = {CONDITIONING: "clip_score/conditioning", INDEPENDENT: "clip_score/independent"}
Images = UInt8[np.ndarray, "batch height width 3"]


@dataclass(frozen=True)
class ImageUnit:
    """A unit of generated images, or of files of a folder of true ones."""

    unit: GeneratedUnit
    files: tuple[Path, ...] = ()
    resolution: int = 0
    """Of the generated images, for the files."""
    is_main: bool = False
    """Whether it is of the first set, with which the true images are."""

    @property
    def name(self) -> str:
        """Name of the unit."""
        return f"{REAL}-{self.unit.first:06d}" if self.files else self.unit.name


def features_network(config: EvaluateConfig) -> str:
    """Return the name of the network whose features distances are taken under."""
    if isinstance(config.features, ClipFeatures) and config.features.clip is None:
        return CONDITIONING if config.independent_clip is None else INDEPENDENT
    return FEATURES


def embedding_network(config: EvaluateConfig) -> str:
    """Return the name of what embeds images for prior and decoder."""
    return CONDITIONING if config.clip.images is None else IMAGES


def clip_distance_network(config: EvaluateConfig) -> str:
    """Return the name of the CLIP whose embeddings CMMD is taken of."""
    if isinstance(config.features, ClipFeatures):
        return features_network(config)
    return CONDITIONING if config.independent_clip is None else INDEPENDENT


def make_evaluate_worker(
    config: EvaluateConfig, inputs: Mapping[str, Artifact], output: Output, *, device: str
) -> Callable[[ImageUnit], EvaluateRecord]:
    """Load the networks, and return the function that evaluates a unit."""
    clip = local_clips(config.clip, inputs)
    encoders = {CONDITIONING: ClipEncoder(clip, device=device)}
    if config.independent_clip is not None:
        encoders[INDEPENDENT] = ClipEncoder(local_clips(config.independent_clip, inputs), device=device)
    networks = {name: clip_network(encoder) for name, encoder in encoders.items()}
    if clip.images is not None:
        networks[IMAGES] = image_network(VisionEncoder(clip.images, device=device))
    if features_network(config) == FEATURES:
        networks[FEATURES] = _features(config, inputs, device)
    questions = config.question_answering
    scorer = None if questions is None else ReplyScorer(questions, device=device, where="evaluate.question_answering")
    return _Worker(config, inputs["generate"], output, encoders, networks, scorer).evaluate


def _features(config: EvaluateConfig, inputs: Mapping[str, Artifact], device: str) -> FeatureNetwork:
    if not isinstance(config.features, ClipFeatures):
        return load_network(config.features, device, "evaluate.features")
    clip: ClipConfig | None = config.features.clip
    assert clip is not None
    return clip_network(ClipEncoder(local_clips(clip, inputs), device=device))


@dataclass(frozen=True)
class _Worker:
    config: EvaluateConfig
    generated: Artifact
    output: Output
    encoders: Mapping[str, ClipEncoder]
    networks: Mapping[str, FeatureNetwork]
    scorer: ReplyScorer | None

    def evaluate(self, unit: ImageUnit) -> EvaluateRecord:
        """Write features and scores, and note the images as batches of them are done."""
        if unit.files:
            return self._evaluate_files(unit)
        rows = read_unit_rows(self.generated, unit.unit.name)
        images = read_images(self.generated, rows)
        scenes, prompts = _scenes(rows), [row.prompt for row in rows]
        asked = _Asked(prompts, other_prompts(prompts)) if any(prompts) else _Asked()
        true = self._true_images(rows, scenes, images.shape[1]) if unit.is_main else None
        generated_features, true_features = _Features(self.networks), _Features(self.networks)
        scores: dict[str, list[float]] = defaultdict(list)
        for part in self._parts(len(rows)):
            seen = generated_features.add(images[part])
            if true is not None:
                true_features.add(true[part])
            for name, values in self._scores(images[part], seen, asked.of(part), scenes[part]).items():
                scores[name] += values
            note_samples(part.stop)
        generated_features.write(self.output, GENERATED, unit.name)
        write_scores(self.output, unit.name, scores or {"index": [float(row.index) for row in rows]})
        if true is not None:
            true_features.write(self.output, TRUE, unit.name)
        content = "" if true is None else content_of(true, unit.unit.first)
        return self._record(len(rows), has_true=true is not None, has_scenes=bool(scenes), content=content)

    def _parts(self, count: int) -> Iterator[slice]:
        size = self.config.batch_size
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def _scores(
        self,
        images: Images,
        seen: Mapping[str, Float[np.ndarray, "batch features"]],
        asked: "_Asked",
        scenes: Sequence[Scene],
    ) -> dict[str, list[float]]:
        """Return the scores of a batch of images."""
        columns: dict[str, list[float]] = {}
        if asked.prompts:
            for name, encoder in self.encoders.items():
                texts = encoder.encode_texts(asked.prompts)
                cosine = block_cosine(torch.from_numpy(seen[name]), texts, encoder.block_dims)
                columns[SCORE_NAMES[name]] = (100 * cosine.clamp_min(0)).tolist()  # arXiv 2104.08718, without its 2.5
            if self.scorer is not None:
                columns[VQA_SCORE] = self.scorer(images, asked.prompts).tolist()
                columns[UNRELATED_VQA_SCORE] = _unrelated_scores(self.scorer, images, asked.unrelated)
        if scenes:
            readings = read_scenes(images, scenes)
            for attribute in ("color", "shape"):
                columns[f"asked/{attribute}"] = readings.asked[attribute].tolist()
                columns[f"read/{attribute}"] = readings.read[attribute].tolist()
        return columns

    def _true_images(self, rows: Sequence[GeneratedRow], scenes: Sequence[Scene], resolution: int) -> Images | None:
        """Return the true images of the first set; None: there are none."""
        return render_scenes(scenes, resolution).numpy() if scenes else read_true_images(self.generated, rows)

    def _evaluate_files(self, unit: ImageUnit) -> EvaluateRecord:
        """Write the features of files of a folder, as middle squares of the generated images' size."""
        images = np.stack([_square(path, _read(path), unit.resolution) for path in unit.files])
        used = {features_network(self.config), clip_distance_network(self.config)}
        features = _Features({name: self.networks[name] for name in sorted(used)})
        for part in self._parts(len(images)):
            features.add(images[part])
            note_samples(part.stop)
        features.write(self.output, TRUE, unit.name)
        content = content_of(images, unit.unit.first)
        return self._record(len(images), has_true=True, has_scenes=False, content=content)

    def _record(self, images: int, *, has_true: bool, has_scenes: bool, content: str = "") -> EvaluateRecord:
        networks = {
            name: NetworkIdentity(name=one.name, digest=one.digest, resize=one.resize, block_dims=tuple(one.block_dims))
            for name, one in self.networks.items()
        }
        if self.scorer is not None:
            networks[QUESTIONS] = NetworkIdentity(
                name=self.scorer.name, digest=self.scorer.digest, resize="as its image processor does", block_dims=()
            )
        return EvaluateRecord(
            images=images, has_true=has_true, has_scenes=has_scenes, content=content, networks=networks
        )


@dataclass(frozen=True)
class _Asked:
    """The prompts of images, and for comparison other ones; none: they were generated from no prompts."""

    prompts: Sequence[str] = ()
    unrelated: Sequence[str | None] = ()

    def of(self, part: slice) -> "_Asked":
        """Return those of some images."""
        return _Asked(self.prompts[part], self.unrelated[part])


def other_prompts(prompts: Sequence[str]) -> list[str | None]:
    """Return for each prompt the next one of another text, in a circle; None where all are the same."""
    found: list[str | None] = []
    other: str | None = None
    for prompt, after in itertools.pairwise(reversed([*prompts, *prompts, *prompts[:1]])):
        if after != prompt:
            other = prompt
        found.append(other)
    return found[: -len(prompts) - 1 : -1]


def _unrelated_scores(scorer: ReplyScorer, images: Images, prompts: Sequence[str | None]) -> list[float]:
    """Return the score of each image for a prompt that is not its own; NaN where there is none."""
    scores = np.full(len(prompts), math.nan)
    rows = [row for row, prompt in enumerate(prompts) if prompt is not None]
    if rows:
        scores[rows] = scorer(images[rows], [prompt for prompt in prompts if prompt is not None]).numpy()
    return scores.tolist()


class _Features:
    """The features of images under some networks, as they are found batch by batch."""

    def __init__(self, networks: Mapping[str, FeatureNetwork]) -> None:
        self._networks = networks
        self._found: dict[str, list[Float[np.ndarray, "batch features"]]] = {name: [] for name in networks}

    def add(self, images: Images) -> dict[str, Float[np.ndarray, "batch features"]]:
        """Take in the features of a batch, and return them by network."""
        batch = {name: network(images, len(images)) for name, network in self._networks.items()}
        for name, rows in batch.items():
            self._found[name].append(rows)
        return batch

    def write(self, output: Output, kind: str, unit: str) -> None:
        """Write those of all batches."""
        for name, batches in self._found.items():
            write_features(output, name, kind, unit, np.concatenate(batches))


def _scenes(rows: Sequence[GeneratedRow]) -> list[Scene]:
    """Return the scenes that prompts describe; none, where not every prompt does."""
    scenes = [Scene(**row.scene) for row in rows if row.scene is not None]
    return scenes if len(scenes) == len(rows) else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputFault(f"evaluate.real: cannot read {path} ({error.strerror}): give a folder of images") from error


def _square(path: Path, content: bytes, resolution: int) -> UInt8[np.ndarray, "height width 3"]:
    return square(decode_image(content, where=f"evaluate.real, {path}", smallest_side=resolution), resolution)
