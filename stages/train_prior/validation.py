"""Evaluate a prior on held-out pairs: by the number of sampling steps, and by the time step of the trajectory."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.metrics.intervals import Interval
from models.metrics.pairs import pair_figures
from models.priors.base import Captions, OnStep, Prior
from models.priors.spec import PriorSampling, PriorSpec
from models.related import is_one_group
from models.similarity import (
    FEWEST_FOR_DISTANCES,
    block_cosine,
    distance_report,
    diversity,
    embedding_report,
    reference_report,
    unrelated_cosine,
)
from stages.train_prior.config import AutoregressiveValidationConfig, DiffusionValidationConfig, ValidationConfig
from stages.train_prior.data import Pairs
from stages.training.measuring import mean_intervals

Report = Mapping[str, float]
_CHUNK = 512  # captions at a time
_MOST_DECIMALS = 9  # of a time
_DIVERSITY_CAPTIONS = 256  # the first so many are answered several times


@dataclass(frozen=True)
class Evaluation:
    """What validation found.

    ``by_steps``: for each number of sampling steps the measures of :func:`models.similarity.embedding_report` and
    ``distance_report`` (where four pairs are held out), and ``diversity``; a prior without a diffusion process has one
    entry, of as many steps as it has components (identity: 0).
    ``by_time``: with the most steps, at the time t of each, the cosine to the true embedding of z_t (``cosine_z_t``)
    and of the prediction of z_0 made from it (``cosine_z_0``), and both to unrelated ones, which are those of another
    caption and image, where there are any. Times are rounded to whole
    numbers, or to as few decimals as tell the steps apart.
    ``reference``: the distances of two halves of the true embeddings, and the cosine of unrelated ones.
    """

    by_steps: Mapping[int, Report]
    by_time: Mapping[float, Report] = field(default_factory=dict)
    reference: Report = field(default_factory=dict)
    cosines: Float[Tensor, " pairs"] | None = None
    """Of each pair, with the most steps; None: the prior samples without captions."""
    intervals_by_steps: Mapping[int, Mapping[str, Interval]] = field(default_factory=dict)
    """Those of figures of pairs, which are resampled together."""
    intervals_by_time: Mapping[float, Mapping[str, Interval]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        return {
            "by_steps": {f"steps_{steps}": dict(report) for steps, report in self.by_steps.items()},
            "by_time": {f"time_{time}": dict(report) for time, report in self.by_time.items()},
            "reference": dict(self.reference),
        }

    def metrics(self) -> dict[str, float]:
        """Name the figures ``<name>/steps_<n>``, ``<name>/time_<t>``, ``reference/<name>``; bare: of the most steps."""
        named = _named(self.by_steps, self.by_time)
        return named | {f"reference/{name}": value for name, value in self.reference.items()}

    def intervals(self) -> dict[str, Interval]:
        """Return the intervals that are known, by the names of the metrics."""
        return _named(self.intervals_by_steps, self.intervals_by_time) if self.intervals_by_steps else {}


Value = TypeVar("Value")


def _named(
    by_steps: Mapping[int, Mapping[str, Value]], by_time: Mapping[float, Mapping[str, Value]]
) -> dict[str, Value]:
    named = dict(by_steps[max(by_steps)])
    labelled = {f"steps_{n}": report for n, report in by_steps.items()}
    labelled |= {f"time_{time}": report for time, report in by_time.items()}
    return named | {f"{name}/{label}": value for label, report in labelled.items() for name, value in report.items()}


def evaluate(
    prior: Prior, pairs: Pairs, config: ValidationConfig, *, block_dims: Sequence[int], seed: int
) -> Evaluation:
    """Sample an embedding for the first caption of each pair, with every number of steps, and measure them.

    The seeds of the samples are the same for any number of steps, kind of prior and step of training. A prior that has
    learned from images alone samples without captions, and its samples are compared with the others as a set.
    """
    samplings = samplings_of(config, prior.spec)
    groups = pairs.related()
    reference = {}
    if len(pairs) >= FEWEST_FOR_DISTANCES:
        reference = reference_report(pairs.image, block_dims, groups=groups)
    if prior.spec.learned_from == "images":
        found = {steps: _measure_set(prior, pairs, how, block_dims, seed) for steps, how in samplings.items()}
        return Evaluation(found, reference=reference)
    trajectory = _Trajectory(pairs.image, block_dims, groups)
    by_steps, intervals = {}, {}
    for steps, sampling in samplings.items():
        rows, seeds = torch.arange(len(pairs)), _seeds(seed, 0, len(pairs))
        generated = _sample_all(
            prior, pairs, rows, sampling, seeds=seeds, trajectory=trajectory if steps == max(samplings) else None
        )
        report = _measure(generated, pairs.image, block_dims, groups)
        if config.samples_per_caption > 1:
            few = generated[:_DIVERSITY_CAPTIONS]
            samples = _sample_again(prior, pairs, sampling, count=config.samples_per_caption, seed=seed, first=few)
            report["diversity"] = float(diversity(samples.double(), block_dims).mean())
        by_steps[steps] = report
        figures = pair_figures(generated, pairs.image, block_dims, seed=seed, groups=groups)
        intervals[steps] = {name: Interval(low, high) for name, (_, low, high) in figures.items()}
        if steps == max(samplings):
            cosines = block_cosine(generated.double(), pairs.image.double(), block_dims)
    return Evaluation(by_steps, trajectory.report(), reference, cosines, intervals, trajectory.intervals(seed))


def samplings_of(config: ValidationConfig, spec: PriorSpec) -> dict[int, PriorSampling]:
    """Return how the prior is to be sampled, by the number of steps that this takes; a distilled one knows its own."""
    if isinstance(config, DiffusionValidationConfig) and not spec.num_sampling_steps:
        return {steps: config.with_steps(steps) for steps in config.num_steps}
    guidance = config.guidance_scale if isinstance(config, AutoregressiveValidationConfig) else 1.0
    return {spec.num_sampling_steps: PriorSampling(guidance_scale=guidance)}


class _Trajectory:
    """Mean cosines of what a sampler passes, by time."""

    def __init__(
        self, true: Float[Tensor, "pairs embed"], block_dims: Sequence[int], groups: Int[Tensor, " pairs"]
    ) -> None:
        self._true, self._block_dims, self._groups = true.double(), block_dims, groups
        self._times: dict[int, float] = {}  # of each step, by its number
        self._cosines: dict[tuple[int, str], list[Tensor]] = defaultdict(list)

    def recorder(self, first: int) -> OnStep:
        """Return what to call at each step with the samples of the pairs from ``first`` on."""

        def on_step(number: int, time: float, z_t: Tensor, z_0: Tensor) -> None:
            self._times[number] = time
            for name, generated in (("cosine_z_t", z_t), ("cosine_z_0", z_0)):
                a, b = generated.double().cpu(), self._true[first : first + len(generated)]
                self._cosines[number, name].append(block_cosine(a, b, self._block_dims))
                if not is_one_group(self._groups):
                    others = unrelated_cosine(a, self._true, self._block_dims, first=first, groups=self._groups)
                    self._cosines[number, f"{name}_unrelated"].append(others)

        return on_step

    def report(self) -> dict[float, dict[str, float]]:
        """Return the means over all pairs; nothing where nothing was recorded."""
        return self._by_time({key: float(column.mean()) for key, column in self._columns().items()})

    def intervals(self, seed: int) -> dict[float, dict[str, Interval]]:
        """Return those of the means."""
        columns = {f"{number}/{name}": column for (number, name), column in self._columns().items()}
        found = mean_intervals(columns, seed)
        return self._by_time({key: found[f"{key[0]}/{key[1]}"] for key in self._cosines})

    def _columns(self) -> dict[tuple[int, str], Float[np.ndarray, " pairs"]]:
        return {key: torch.cat(cosines).numpy() for key, cosines in self._cosines.items()}

    def _by_time(self, by_step: Mapping[tuple[int, str], Value]) -> dict[float, dict[str, Value]]:
        times = distinct_times(self._times)
        by_time: dict[float, dict[str, Value]] = defaultdict(dict)
        for (number, name), value in by_step.items():
            by_time[times[number]][name] = value
        return dict(by_time)


def distinct_times(times: Mapping[int, float]) -> dict[int, float]:
    """Return the times of steps by their numbers, rounded to whole numbers, or to the fewest decimals that tell all
    of them apart.
    """
    for decimals in (None, *range(1, _MOST_DECIMALS)):
        rounded = {number: round(time, decimals) for number, time in times.items()}
        if len(set(rounded.values())) == len(times):
            return rounded
    return dict(times)


def _measure(
    generated: Float[Tensor, "pairs embed"],
    true: Float[Tensor, "pairs embed"],
    block_dims: Sequence[int],
    groups: Int[Tensor, " pairs"] | None = None,
) -> dict[str, float]:
    report = embedding_report(generated, true, block_dims, groups=groups)
    if len(true) >= FEWEST_FOR_DISTANCES:
        report |= distance_report(generated, true, block_dims)
    return report


def _measure_set(prior: Prior, images: Pairs, how: PriorSampling, block_dims: Sequence[int], seed: int) -> Report:
    """Return what can be said of as many samples without a caption as there are images: nothing of single ones."""
    seeds = _seeds(seed, 0, len(images))
    parts = [prior.sample_unconditional(seeds[n : n + _CHUNK], how).cpu() for n in range(0, len(seeds), _CHUNK)]
    report = _measure(torch.cat(parts), images.image, block_dims)
    return {name: value for name, value in report.items() if not name.startswith(("cosine", "retrieval"))}


def _sample_again(
    prior: Prior, pairs: Pairs, sampling: PriorSampling, *, count: int, seed: int, first: Captions
) -> Float[Tensor, "captions samples embed"]:
    """Return ``count`` samples for each caption, the first of which are there already."""
    captions = len(first)
    rows = torch.arange(captions).repeat(count - 1)
    seeds = [one for n in range(1, count) for one in _seeds(seed, n, captions)]
    further = _sample_all(prior, pairs, rows, sampling, seeds=seeds).reshape(count - 1, captions, -1)
    return torch.cat([first[None], further]).transpose(0, 1)


def _sample_all(
    prior: Prior,
    pairs: Pairs,
    rows: Int[Tensor, " samples"],
    sampling: PriorSampling,
    *,
    seeds: Sequence[int],
    trajectory: _Trajectory | None = None,
) -> Float[Tensor, "samples embed"]:
    """Sample an embedding for the first caption of each of these pairs, a chunk at a time."""
    parts = []
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        text = pairs.take(chunk, torch.zeros(len(chunk), dtype=torch.float64))[1].to(device_of(prior))
        on_step = None if trajectory is None else trajectory.recorder(first)
        parts.append(prior.sample(text, seeds[first : first + _CHUNK], sampling, on_step=on_step).cpu())
    return torch.cat(parts)


def _seeds(seed: int, sample: int, count: int) -> list[int]:
    """Return a seed for each pair, for its n-th sample."""
    entropy = seed if sample == 0 else [seed, sample]
    seeds: list[int] = np.random.SeedSequence(entropy).generate_state(count, np.uint32).tolist()
    return seeds


def device_of(prior: torch.nn.Module) -> torch.device:
    """Return where the prior computes; one without weights computes on the CPU."""
    return next((weight.device for weight in prior.parameters()), torch.device("cpu"))
