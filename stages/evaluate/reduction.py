"""From what the units left to the figures of all sets: memory does not grow with the number of images.

Features stay on disk and are summed part by part, or compared for a bounded number of images; of each image only its
scores are held, some numbers.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float

from models.metrics.intervals import mean_interval, resampled_means
from stages.contract.events import Progress
from stages.contract.measures import Protocol
from stages.evaluate.category_labels import category_labels
from stages.evaluate.comparison import Comparison
from stages.evaluate.distances import Figure, Figures
from stages.evaluate.records import read_scores
from stages.evaluate.results import Prompts, Results, read_prompts
from stages.evaluate.scene_measures import CHANCE, WORDS, Readings
from stages.evaluate.sets import EvaluatedSets
from stages.evaluate.worker import CONDITIONING, INDEPENDENT, QUESTIONS, SCORE_NAMES, UNRELATED_VQA_SCORE, VQA_SCORE

PREFIXES = {"prior": "accuracy", "text_embedding": "control/text_embedding", "reconstruction": "reconstruction"}
UNRELATED = "control/unrelated"
MOST_CATEGORIES = 200
STEPS = "steps of the figures"
_NO_PROMPTS = "the images were generated from no prompts"


class Reduction(EvaluatedSets):
    """Makes the figures of all sets."""

    def results(self, report: Callable[[Progress], None]) -> Results:
        """Return the figures of all sets, and report each step, as together they may take minutes."""
        done = itertools.count(1)
        comparison = Comparison(self, lambda: report(Progress(next(done), total, STEPS)))
        total = sum(1 + comparison.steps(name) for name in self.units)
        results = Results()
        for name in self.units:
            prefix = "" if name == self.main else f"{PREFIXES[name]}/"
            prompts = read_prompts(self.generated, name)
            common = {"set": name, "prompts": prompts.digest, "seed": str(prompts.seed)}
            scores = read_scores(self.output, self.evaluated(name))
            self._add_scenes(results, name, scores, common)
            self._add_scores(results, prefix, scores, prompts, common)
            comparison.report()
            comparison.add_pairs(results, name, prefix, common)
            comparison.add_distances(results, name, prefix, common)
        return results

    def readings(self, name: str) -> Readings | None:
        """Return what was asked and read of the scenes of a set; None: its prompts describe none."""
        return self._readings(read_scores(self.output, self.evaluated(name)))

    @staticmethod
    def _readings(scores: Mapping[str, Float[np.ndarray, " rows"]]) -> Readings | None:
        if "asked/color" not in scores:
            return None
        sides = (
            {word: torch.from_numpy(scores[f"{side}/{word}"]).long() for word in WORDS} for side in ("asked", "read")
        )
        return Readings(*sides)

    def _add_scenes(self, results: Results, name: str, scores: Mapping[str, np.ndarray], common: Protocol) -> None:
        """Add the checker's accuracies; for the prior's set also the unrelated control and what chance gives."""
        readings = self._readings(scores)
        if readings is None:
            return
        protocol = {**common, "checker": "scenes"}
        hits = {word: hit.double().numpy() for word, hit in readings.hits().items()}
        results.add(mean_figures(hits, self.config.seed, are_fractions=True), protocol, f"{PREFIXES[name]}/")
        if name == "prior":
            results.metrics |= {f"chance/{word}": value for word, value in CHANCE.items()}
            if (count := self.count(name)) > 1:
                unrelated = readings.unrelated_accuracy()
                figures = {word: Figure(value, count) for word, value in unrelated.items()}
                results.add(figures, protocol, f"{UNRELATED}/")

    def _add_scores(
        self, results: Results, prefix: str, scores: Mapping[str, np.ndarray], prompts: Prompts, common: Protocol
    ) -> None:
        """Add how images fit their prompts, of all images and of each category, and say by which models."""
        for name, network in self._score_networks().items():
            if name not in scores:
                results.notes[prefix + name] = _NO_PROMPTS
                continue
            identity = self.network(network)
            protocol = {**common, **self._score_protocol(network, identity)}
            results.add(mean_figures({name: scores[name]}, self.config.seed), protocol, prefix)
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
        return mean_figures({UNRELATED_VQA_SCORE: known}, self.config.seed) if len(known) else {}

    def _add_categories(
        self, results: Results, name: str, values: np.ndarray, prompts: Prompts, protocol: Protocol
    ) -> None:
        labels = category_labels(prompts.categories)
        for category, numbers in list(prompts.categories.items())[:MOST_CATEGORIES]:
            figures = mean_figures({name: values[list(numbers)]}, self.config.seed)
            results.add({f"{name}/{labels[category]}": figures[name]}, {**protocol, "category": category.text})


def mean_figures(
    columns: Mapping[str, Float[np.ndarray, " rows"]], seed: int, *, are_fractions: bool = False
) -> Figures:
    """Return the means of columns, rows resampled together, with their intervals; rows of fractions are 0 or 1."""
    stacked = np.stack(list(columns.values()), 1).astype(np.float64)
    resampled = resampled_means(stacked, seed)
    return {
        name: Figure(float(rows.mean()), len(rows), *mean_interval(rows, means, is_fraction=are_fractions))
        for name, rows, means in zip(columns, stacked.T, resampled.T, strict=True)
    }
