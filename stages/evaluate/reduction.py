"""From what the units left to the figures of all sets: memory does not grow with the number of images.

Features stay on disk and are summed part by part, or compared for a bounded number of images; of each image only its
scores are held, some numbers.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from models.metrics.intervals import percentile_interval, resampled_means
from models.metrics.pairs import pair_figures
from stages.contract.measures import Measure, Protocol, protocol_digest
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.distances import (
    FEWEST,
    Figure,
    Figures,
    cmmd_figure,
    frechet_figures,
    kernel_figures,
    spaced,
)
from stages.evaluate.records import (
    GENERATED,
    TRUE,
    EmbeddingRows,
    EvaluatedUnit,
    EvaluateRecord,
    FeatureRows,
    read_scores,
)
from stages.evaluate.scene_measures import CHANCE, WORDS, Readings
from stages.evaluate.worker import (
    CONDITIONING,
    INDEPENDENT,
    QUESTIONS,
    SCORE_NAMES,
    UNRELATED_VQA_SCORE,
    VQA_SCORE,
    clip_distance_network,
    embedding_network,
    features_network,
)
from stages.formats.generated_images import GeneratedUnit, iterate_rows
from stages.storage.artifact import Artifact, Output

PREFIXES = {"prior": "accuracy", "text_embedding": "control/text_embedding", "reconstruction": "reconstruction"}
UNRELATED = "control/unrelated"
WITHOUT_PROMPTS = "unconditional"
MOST_CATEGORIES = 200
_NO_PROMPTS = "the images were generated from no prompts"
_ODD = re.compile(r"[^A-Za-z0-9_. -]+")


@dataclass
class Results:
    """Figures by name with their protocols, and the words to read them by."""

    metrics: dict[str, float] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, figures: Figures, protocol: Protocol, prefix: str = "") -> None:
        """Take in figures of one protocol; how many images each is of is a part of it."""
        for name, figure in figures.items():
            own = {**protocol, "images": str(figure.n)}
            digest = protocol_digest(own)
            self.protocols[digest] = own
            low, high = (None if end is None or not math.isfinite(end) else end for end in (figure.low, figure.high))
            self.metrics[prefix + name] = figure.value
            self.measures[prefix + name] = Measure(figure.value, low, high, figure.n, digest)


@dataclass(frozen=True)
class Prompts:
    """What the rows of a set say together."""

    digest: str
    seed: int
    categories: Mapping[str, Sequence[int]]
    """Numbers of the images of each category, by <column>/<value>."""


def read_prompts(generated: Artifact, set_name: str) -> Prompts:
    """Read the rows of a set, one at a time."""
    digest, seed, number = hashlib.sha256(), None, 0
    categories: dict[str, list[int]] = defaultdict(list)
    for row in iterate_rows(generated):
        if row.set != set_name:
            continue
        digest.update(json.dumps([row.prompt, row.scene], sort_keys=True).encode() + b"\n")
        seed = row.seed if seed is None else seed
        for column, value in row.categories.items():
            categories[f"{column}/{value}"].append(number)
        number += 1
    return Prompts(digest.hexdigest()[:16], seed or 0, dict(sorted(categories.items())))


@dataclass(frozen=True)
class Reduction:
    """Everything that units of one evaluation left; ``units`` has those of each set, the main one first."""

    config: EvaluateConfig
    generated: Artifact
    output: Output
    records: Mapping[str, EvaluateRecord]
    units: Mapping[str, Sequence[GeneratedUnit]]
    real: Sequence[EvaluatedUnit]

    @property
    def main(self) -> str:
        """The set that most figures are of."""
        return next(iter(self.units))

    def results(self) -> Results:
        """Return the figures of all sets."""
        results = Results()
        for name in self.units:
            prefix = "" if name == self.main else f"{PREFIXES[name]}/"
            prompts = read_prompts(self.generated, name)
            common = {"set": name, "prompts": prompts.digest, "seed": str(prompts.seed)}
            scores = read_scores(self.output, self._evaluated(name))
            self._add_scenes(results, name, scores, common)
            self._add_scores(results, prefix, scores, prompts, common)
            self._add_pairs(results, name, prefix, common)
            self._add_distances(results, name, prefix, common)
        return results

    def readings(self, name: str) -> Readings | None:
        """Return what was asked and read of the scenes of a set; None: its prompts describe none."""
        return self._readings(read_scores(self.output, self._evaluated(name)))

    @staticmethod
    def _readings(scores: Mapping[str, Float[np.ndarray, " rows"]]) -> Readings | None:
        if "asked/color" not in scores:
            return None
        sides = (
            {word: torch.from_numpy(scores[f"{side}/{word}"]).long() for word in WORDS} for side in ("asked", "read")
        )
        return Readings(*sides)

    def _evaluated(self, name: str) -> list[EvaluatedUnit]:
        return [EvaluatedUnit(unit.name, unit.count) for unit in self.units[name]]

    def _count(self, name: str) -> int:
        return sum(unit.count for unit in self.units[name])

    def _add_scenes(self, results: Results, name: str, scores: Mapping[str, np.ndarray], common: Protocol) -> None:
        """Add the checker's accuracies; for the prior's set also the unrelated control and what chance gives."""
        readings = self._readings(scores)
        if readings is None:
            return
        protocol = {**common, "checker": "scenes"}
        hits = {word: hit.double().numpy() for word, hit in readings.hits().items()}
        results.add(self._means(hits), protocol, f"{PREFIXES[name]}/")
        if name == "prior":
            results.metrics |= {f"chance/{word}": value for word, value in CHANCE.items()}
            if (count := self._count(name)) > 1:
                unrelated = readings.unrelated_accuracy()
                figures = {word: Figure(value, count) for word, value in unrelated.items()}
                results.add(figures, protocol, f"{UNRELATED}/")

    def _means(self, columns: Mapping[str, Float[np.ndarray, " rows"]]) -> Figures:
        """Return the means of columns with their intervals."""
        stacked = np.stack(list(columns.values()), 1).astype(np.float64)
        resampled = resampled_means(stacked, self.config.seed)
        return {
            name: Figure(float(stacked[:, number].mean()), len(stacked), *percentile_interval(resampled[:, number]))
            for number, name in enumerate(columns)
        }

    def _add_scores(
        self, results: Results, prefix: str, scores: Mapping[str, np.ndarray], prompts: Prompts, common: Protocol
    ) -> None:
        """Add how images fit their prompts, of all images and of each category, and say by which models."""
        for name, network in self._score_networks().items():
            if name not in scores:
                results.notes[prefix + name] = _NO_PROMPTS
                continue
            identity = self._network(network)
            protocol = {**common, **self._score_protocol(network, identity)}
            results.add(self._means({name: scores[name]}), protocol, prefix)
            if network == QUESTIONS:
                results.add(self._unrelated_replies(scores), protocol, prefix)
            if not prefix:
                results.notes[name] = identity["name"]
                self._add_categories(results, name, scores[name], prompts, protocol)
        if not prefix and len(prompts.categories) > MOST_CATEGORIES:
            results.notes["categories"] = f"the first {MOST_CATEGORIES} of {len(prompts.categories)} have figures"

    def _score_networks(self) -> dict[str, str]:
        """Return the networks that score single images, by the names of the scores."""
        found = {SCORE_NAMES[CONDITIONING]: CONDITIONING}
        if self.config.independent_clip is not None:
            found[SCORE_NAMES[INDEPENDENT]] = INDEPENDENT
        return found if self.config.question_answering is None else found | {VQA_SCORE: QUESTIONS}

    def _score_protocol(self, network: str, identity: Mapping[str, str]) -> Protocol:
        questions = self.config.question_answering
        asked = (
            {"model": identity["name"], "question": questions.question, "reply": questions.reply} if questions else {}
        )
        by = asked if network == QUESTIONS else {"clip": identity["name"]}
        return {**by, "weights": identity["weights"], "resize": identity["resize"]}

    def _unrelated_replies(self, scores: Mapping[str, np.ndarray]) -> Figures:
        """Return what images score for prompts of others, which is what their own are to be compared with."""
        values = scores[UNRELATED_VQA_SCORE]
        known = values[np.isfinite(values)]
        return self._means({UNRELATED_VQA_SCORE: known}) if len(known) else {}

    def _add_categories(
        self, results: Results, name: str, values: np.ndarray, prompts: Prompts, protocol: Protocol
    ) -> None:
        for category, numbers in list(prompts.categories.items())[:MOST_CATEGORIES]:
            figures = self._means({name: values[list(numbers)]})
            label = "/".join(_ODD.sub("_", part).strip() or "_" for part in category.split("/", 1))
            results.add({f"{name}/{label}": figures[name]}, {**protocol, "category": category})

    def _network(self, name: str) -> dict[str, str]:
        identity = next(iter(self.records.values())).networks[name]
        return {"name": identity.name, "weights": identity.digest, "resize": identity.resize}

    def _block_dims(self, name: str) -> tuple[int, ...]:
        return next(iter(self.records.values())).networks[name].block_dims

    def _has_true(self) -> bool:
        return all(self.records[unit.name].has_true for unit in self.units[self.main])

    def _rows(self, network: str, name: str) -> FeatureRows:
        return FeatureRows(self.output, self._evaluated(name), f"{network}_{GENERATED}")

    def _true_rows(self, network: str) -> FeatureRows:
        """Return those of the configured folder, or of what the prompts describe."""
        return FeatureRows(self.output, self.real or self._evaluated(self.main), f"{network}_{TRUE}")

    def _add_pairs(self, results: Results, name: str, prefix: str, common: Protocol) -> None:
        """Add how near images, and the embeddings that they were generated from, are to the true images'.

        A cosine to the truth alone can be gamed (the mean wins), so the unrelated one, norm and variance stand beside.
        """
        if not self._has_true() or self._count(name) < 2 or name == WITHOUT_PROMPTS:
            return
        chosen = spaced(self._count(name), self.config.pairwise_images)
        true = FeatureRows(self.output, self._evaluated(self.main), f"{CONDITIONING}_{TRUE}").take(chosen)
        identity, dims = self._network(CONDITIONING), self._block_dims(CONDITIONING)
        protocol = {**common, "clip": identity["name"], "weights": identity["weights"], "resize": identity["resize"]}
        seen = self._rows(CONDITIONING, name).take(chosen)
        results.add(_image_figures(self._pairs(seen, true, dims)), protocol, prefix)
        if name == self.main:
            self._add_embeddings(results, chosen, common)

    def _add_embeddings(self, results: Results, chosen: np.ndarray, common: Protocol) -> None:
        """Add how near the embeddings that images were generated from are to the true images', by what made both."""
        network = embedding_network(self.config)
        true_rows = FeatureRows(self.output, self._evaluated(self.main), f"{network}_{TRUE}")
        true, identity, dims = true_rows.take(chosen), self._network(network), self._block_dims(network)
        protocol = {**common, "clip": identity["name"], "weights": identity["weights"], "resize": identity["resize"]}
        embedding_rows = EmbeddingRows(self.generated, self.units[self.main])
        embeddings = embedding_rows.take(chosen)
        distances = frechet_figures(embedding_rows, true_rows)
        results.add({f"embedding/{key}": figure for key, figure in distances.items()}, protocol)
        results.add(_embedding_figures(self._pairs(embeddings, true, dims)), protocol)
        cmmd = cmmd_figure(torch.from_numpy(embeddings), torch.from_numpy(true), dims)
        results.add({"embedding/cmmd": cmmd}, protocol)

    def _pairs(self, a: np.ndarray, b: np.ndarray, dims: tuple[int, ...]) -> Figures:
        found = pair_figures(torch.from_numpy(a), torch.from_numpy(b), dims, seed=self.config.seed)
        return {name: Figure(one.value, len(a), one.low, one.high) for name, one in found.items()}

    def _add_distances(self, results: Results, name: str, prefix: str, common: Protocol) -> None:
        """Add the distances to the true images, and under which features; or why they are not known."""
        count = self._count(name)
        why = f"{count} image generated: {FEWEST} or more have a distribution" if count < FEWEST else ""
        if not self.real and not self._has_true():
            why = why or "the prompts have no true images: set evaluate.real"
        if why:
            results.notes |= {} if prefix else {"frechet_distance": why}
            return
        network, most = features_network(self.config), self.config.pairwise_images
        identity, generated, true = self._network(network), self._rows(network, name), self._true_rows(network)
        protocol = {
            **common, "features": identity["name"], "weights": identity["weights"], "resize": identity["resize"],
            "true_images": self._true_identity(), "num_true": str(true.count),
        }  # fmt: skip
        results.add(frechet_figures(generated, true), protocol, prefix)
        a, b = (torch.from_numpy(rows.take(spaced(rows.count, most))) for rows in (generated, true))
        results.add(kernel_figures(a, b, self.config.seed), protocol, prefix)
        clip = clip_distance_network(self.config)
        of_clip, dims = self._network(clip), self._block_dims(clip)
        rows = (self._rows(clip, name), self._true_rows(clip))
        a, b = (torch.from_numpy(one.take(spaced(one.count, most))) for one in rows)
        clip_protocol = {"features": of_clip["name"], "weights": of_clip["weights"], "resize": of_clip["resize"]}
        results.add({"cmmd": cmmd_figure(a, b, dims)}, protocol | clip_protocol, prefix)
        if not prefix:
            results.notes["frechet_distance"] = f"{identity['name']}, {count} images, {true.count} true ones"

    def _true_identity(self) -> str:
        if not self.real:
            return "those that the prompts describe"
        contents = "".join(self.records[unit.name].content for unit in self.real)
        return f"folder {hashlib.sha256(contents.encode()).hexdigest()[:16]}"


def _image_figures(pairs: Figures) -> Figures:
    """Return the figures of images by the names that they are known by."""
    names = {name: name.replace("cosine_", "cosine/image_", 1) for name in pairs if name.startswith("cosine_")}
    names |= {name: f"image_{name}" for name in pairs if name.startswith("retrieval")}
    return {new: pairs[old] for old, new in names.items() if "centred" not in old}


def _embedding_figures(pairs: Figures) -> Figures:
    """Return those of the embeddings that images were generated from, by the names that they are known by."""
    names = {"cosine_true": "cosine/true", "cosine_unrelated": "cosine/unrelated"}
    return {names.get(name, f"embedding/{name}"): figure for name, figure in pairs.items()}
