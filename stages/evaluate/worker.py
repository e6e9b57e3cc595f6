"""Evaluate one unit of images: their features under every network, and the scores of each by itself."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

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
        """Write features and scores."""
        if unit.files:
            return self._evaluate_files(unit)
        rows = read_unit_rows(self.generated, unit.unit.name)
        images = read_images(self.generated, rows)
        seen = {name: network(images, self.config.batch_size) for name, network in self.networks.items()}
        for name, features in seen.items():
            write_features(self.output, name, GENERATED, unit.name, features)
        scenes = [Scene(**row.scene) for row in rows if row.scene is not None]
        has_scenes = len(scenes) == len(rows)
        write_scores(self.output, unit.name, self._scores(rows, images, seen, scenes if has_scenes else ()))
        has_true = unit.is_main and self._write_true(unit, rows, scenes if has_scenes else (), images.shape[1])
        return self._record(len(rows), has_true=has_true, has_scenes=has_scenes)

    def _scores(
        self,
        rows: Sequence[GeneratedRow],
        images: Images,
        seen: Mapping[str, np.ndarray],
        scenes: Sequence[Scene],
    ) -> dict[str, list[float]]:
        columns: dict[str, list[float]] = {}
        if any(row.prompt for row in rows):
            for name, encoder in self.encoders.items():
                texts = self._texts(encoder, [row.prompt for row in rows])
                cosine = block_cosine(torch.from_numpy(seen[name]), texts, encoder.block_dims)
                columns[SCORE_NAMES[name]] = (100 * cosine.clamp_min(0)).tolist()  # arXiv 2104.08718, without its 2.5
            columns |= self._replies(images, [row.prompt for row in rows])
        if scenes:
            readings = read_scenes(images, scenes)
            for attribute in ("color", "shape"):
                columns[f"asked/{attribute}"] = readings.asked[attribute].tolist()
                columns[f"read/{attribute}"] = readings.read[attribute].tolist()
        return columns or {"index": [float(row.index) for row in rows]}

    def _replies(self, images: Images, prompts: Sequence[str]) -> dict[str, list[float]]:
        """Return how likely each image shows its prompt, and another image's; of one image alone that is not known."""
        if self.scorer is None:
            return {}
        others = [*prompts[1:], *prompts[:1]]
        found: dict[str, list[float]] = {VQA_SCORE: [], UNRELATED_VQA_SCORE: []}
        for start in range(0, len(prompts), self.config.batch_size):
            rows = slice(start, start + self.config.batch_size)
            for name, asked in ((VQA_SCORE, prompts), (UNRELATED_VQA_SCORE, others)):
                found[name] += self.scorer(images[rows], asked[rows]).tolist()
        return found if len(prompts) > 1 else found | {UNRELATED_VQA_SCORE: [math.nan]}

    def _texts(self, encoder: ClipEncoder, prompts: Sequence[str]) -> Tensor:
        size = self.config.batch_size
        return torch.cat([encoder.encode_texts(prompts[s : s + size]) for s in range(0, len(prompts), size)])

    def _write_true(
        self, unit: ImageUnit, rows: Sequence[GeneratedRow], scenes: Sequence[Scene], resolution: int
    ) -> bool:
        """Write the features of the true images, and return whether there are some."""
        true = render_scenes(scenes, resolution).numpy() if scenes else read_true_images(self.generated, rows)
        if true is None:
            return False
        for name, network in self.networks.items():
            write_features(self.output, name, TRUE, unit.name, network(true, self.config.batch_size))
        return True

    def _evaluate_files(self, unit: ImageUnit) -> EvaluateRecord:
        """Write the features of files of a folder, as middle squares of the generated images' size."""
        contents = [_read(path) for path in unit.files]
        images = np.stack([_square(path, one, unit.resolution) for path, one in zip(unit.files, contents, strict=True)])
        for name in sorted({features_network(self.config), clip_distance_network(self.config)}):
            write_features(self.output, name, TRUE, unit.name, self.networks[name](images, self.config.batch_size))
        digest = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in contents)).hexdigest()
        return self._record(len(images), has_true=True, has_scenes=False, content=digest)

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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputFault(f"evaluate.real: cannot read {path} ({error.strerror}): give a folder of images") from error


def _square(path: Path, content: bytes, resolution: int) -> UInt8[np.ndarray, "height width 3"]:
    return square(decode_image(content, where=f"evaluate.real, {path}", smallest_side=resolution), resolution)
