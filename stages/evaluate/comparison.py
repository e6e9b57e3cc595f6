"""Sets of generated images beside the true ones: each image beside its own, and the distributions of both."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.metrics.pairs import pair_figures
from models.related import UNRELATED_PAIRS, groups_of_equal, groups_of_same, joined_groups
from stages.contract.measures import Protocol
from stages.evaluate.distances import (
    FEWEST,
    Figure,
    Figures,
    cmmd_figure,
    frechet_figures,
    frechet_steps,
    kernel_figures,
    spaced,
)
from stages.evaluate.records import EmbeddingRows, UnitFeatureRows
from stages.evaluate.results import Results
from stages.evaluate.sets import EvaluatedSets
from stages.evaluate.worker import CONDITIONING, clip_distance_network, embedding_network, features_network
from stages.formats.generated_clips import are_normalised
from stages.formats.generated_images import iterate_rows

WITHOUT_PROMPTS = "unconditional"


@dataclass(frozen=True)
class Comparison:
    """Adds the figures of sets that need true images."""

    sets: EvaluatedSets
    report: Callable[[], None]
    """Called after each step."""

    def steps(self, name: str) -> int:
        """Return how many steps the figures of a set take."""
        sets, count = self.sets, self.sets.count(name)
        total = 0
        if self._has_pairs(name):
            true = sets.described_rows(CONDITIONING).count
            total += 1 + (frechet_steps(count, true) + 2 if name == sets.main else 0)
        if not self._why_no_distances(name):
            total += frechet_steps(count, sets.true_rows(CONDITIONING).count) + 2
        return total

    def _has_pairs(self, name: str) -> bool:
        return self.sets.has_true() and self.sets.count(name) > 1 and name != WITHOUT_PROMPTS

    def add_pairs(self, results: Results, name: str, prefix: str, common: Protocol) -> None:
        """Add how near images, and the embeddings that they were generated from, are to the true images'.

        A cosine to the truth alone can be gamed (the mean wins), so the unrelated one, norm and variance stand beside.
        """
        sets = self.sets
        if not self._has_pairs(name):
            return
        chosen = spaced(sets.count(name), sets.config.pairwise_images)
        true = sets.described_rows(CONDITIONING).take(chosen)
        dims, protocol = sets.block_dims(CONDITIONING), self._pairs_protocol(CONDITIONING, common)
        seen = sets.rows(CONDITIONING, name).take(chosen)
        self._add(results, _image_figures(self._pairs(seen, true, dims, chosen)), protocol, prefix)
        self.report()
        if name == sets.main:
            self._add_embeddings(results, chosen, common)

    def _add_embeddings(self, results: Results, chosen: np.ndarray, common: Protocol) -> None:
        """Add how near the embeddings that images were generated from are to the true images', by what made both.

        Where models learned from embeddings of length 1, true ones are brought to it too; CMMD has no lengths.
        """
        sets, network = self.sets, embedding_network(self.sets.config)
        raw_rows, dims = sets.described_rows(network), sets.block_dims(network)
        raw_protocol = protocol = self._pairs_protocol(network, common)
        true_rows = raw_rows
        if are_normalised(sets.generated):
            true_rows = UnitFeatureRows(raw_rows.artifact, raw_rows.units, raw_rows.kind, dims)
            protocol = {**raw_protocol, "normalised": "yes"}
        true = true_rows.take(chosen)
        embedding_rows = EmbeddingRows(sets.generated, sets.units[sets.main])
        embeddings = embedding_rows.take(chosen)
        distances = frechet_figures(embedding_rows, true_rows, self.report)
        results.add({f"embedding/{key}": figure for key, figure in distances.items()}, protocol)
        self._add(results, _embedding_figures(self._pairs(embeddings, true, dims, chosen)), protocol)
        self.report()
        cmmd = cmmd_figure(torch.from_numpy(embeddings), torch.from_numpy(raw_rows.take(chosen)), dims)
        results.add({"embedding/cmmd": cmmd}, raw_protocol)
        self.report()

    def _pairs_protocol(self, network: str, common: Protocol) -> Protocol:
        identity, true = self.sets.network(network), self.sets.described_images()
        by = {"clip": identity["name"], "weights": identity["weights"], "resize": identity["resize"]}
        return {**common, **by, "true_images": true}

    @functools.cached_property
    def _prompts(self) -> list[str]:
        """Those of the main set, whose images have the order of every set's."""
        return [row.prompt for row in iterate_rows(self.sets.generated) if row.set == self.sets.main]

    def _add(self, results: Results, figures: Figures, protocol: Protocol, prefix: str = "") -> None:
        """Add figures of pairs; those of unrelated ones say which these are, as earlier versions counted all others."""
        unrelated = {name: figure for name, figure in figures.items() if "unrelated" in name}
        results.add({name: figure for name, figure in figures.items() if name not in unrelated}, protocol, prefix)
        results.add(unrelated, {**protocol, "unrelated": UNRELATED_PAIRS}, prefix)

    def _pairs(self, a: np.ndarray, b: np.ndarray, dims: tuple[int, ...], chosen: np.ndarray) -> Figures:
        true = torch.from_numpy(b)
        groups = joined_groups(groups_of_equal([self._prompts[row] for row in chosen]), groups_of_same(true))
        found = pair_figures(torch.from_numpy(a), true, dims, seed=self.sets.config.seed, groups=groups)
        return {name: Figure(one.value, len(a), one.low, one.high) for name, one in found.items()}

    def add_distances(self, results: Results, name: str, prefix: str, common: Protocol) -> None:
        """Add the distances to the true images, and under which features; or why they are not known."""
        sets, count = self.sets, self.sets.count(name)
        if why := self._why_no_distances(name):
            results.notes |= {} if prefix else {"frechet_distance": why}
            return
        network, most = features_network(sets.config), sets.config.pairwise_images
        identity, generated, true = sets.network(network), sets.rows(network, name), sets.true_rows(network)
        protocol = {
            **common, "features": identity["name"], "weights": identity["weights"], "resize": identity["resize"],
            "true_images": sets.true_images(), "num_true": str(true.count),
        }  # fmt: skip
        results.add(frechet_figures(generated, true, self.report), protocol, prefix)
        a, b = (torch.from_numpy(rows.take(spaced(rows.count, most))) for rows in (generated, true))
        # Beside `images`, which counts one side alone: that of the other decides these figures as well.
        compared = {**protocol, "generated_compared": str(len(a)), "true_compared": str(len(b))}
        results.add(kernel_figures(a, b, sets.config.seed), compared, prefix)
        self.report()
        clip = clip_distance_network(sets.config)
        of_clip, dims = sets.network(clip), sets.block_dims(clip)
        rows = (sets.rows(clip, name), sets.true_rows(clip))
        a, b = (torch.from_numpy(one.take(spaced(one.count, most))) for one in rows)
        clip_protocol = {"features": of_clip["name"], "weights": of_clip["weights"], "resize": of_clip["resize"]}
        results.add({"cmmd": cmmd_figure(a, b, dims)}, compared | clip_protocol, prefix)
        self.report()
        if not prefix:
            results.notes["frechet_distance"] = f"{identity['name']}, {count} images, {true.count} true ones"

    def _why_no_distances(self, name: str) -> str:
        """Return why a set has no distances to the true images; "": it has."""
        count = self.sets.count(name)
        if count < FEWEST:
            return f"{count} image generated: {FEWEST} or more have a distribution"
        has_true = self.sets.real or self.sets.has_true()
        return "" if has_true else "the prompts have no true images: set evaluate.real"


def _image_figures(pairs: Figures) -> Figures:
    """Return the figures of images by the names that they are known by."""
    names = {name: name.replace("cosine_", "cosine/image_", 1) for name in pairs if name.startswith("cosine_")}
    names |= {name: f"image_{name}" for name in pairs if name.startswith("retrieval")}
    return {new: pairs[old] for old, new in names.items() if "centred" not in old}


def _embedding_figures(pairs: Figures) -> Figures:
    """Return those of the embeddings that images were generated from, by the names that they are known by."""
    names = {"cosine_true": "cosine/true", "cosine_unrelated": "cosine/unrelated"}
    return {names.get(name, f"embedding/{name}"): figure for name, figure in pairs.items()}
