"""Kinds of priors at EQUAL diversity: what each finds, by sampling steps and by time.

Command: python -m benchmarks.diversity RUN [RUN ...] [--store workspace] [--diversity D] [--out workspace/diversity]

RUN is a run with a trained prior (an id, or how it begins); runs that differ in their seed alone are shown as one row,
mean ± standard deviation. A prior that answers a caption always alike gives up what the caption leaves open, which R@k
and cosines reward: so every prior is sampled under several guidance scales, from 0 (as without a caption) to
above 1, and its figures are interpolated at the diversities that are asked for; a prior that does not reach one has no
row there. Priors that sample nothing random are shown apart, at their own diversity.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from models.priors.base import Prior
from models.priors.spec import PriorSampling, PriorSpec
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.errors import StageError
from stages.inference.loading import load_prior
from stages.train_prior.config import AutoregressiveValidationConfig, DiffusionValidationConfig, ValidationConfig
from stages.train_prior.data import Pairs, load_pairs
from stages.train_prior.inputs import text_state_names
from stages.train_prior.validation import evaluate, samplings_of

FIGURES = {"R@1": "retrieval_at_1", "R@5": "retrieval_at_5", "centred": "cosine_centred", "mmd": "mmd"}
Rows = Mapping[tuple[str, int, int], Sequence["Point"]]
_SAMPLES = 4  # of each caption, for its diversity
_TIMED = 256  # captions at most
_TIMES = 3  # of which the shortest counts: others may use the machine
_ALIKE = 0.01  # diversity below which a prior samples nothing random


@dataclass(frozen=True)
class Point:
    """What a prior gives with so many steps under a guidance scale."""

    steps: int
    guidance: float
    diversity: float
    milliseconds: float
    """For a caption, of a batch."""
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """The points of one prior."""

    name: str
    parameters: int
    points: Sequence[Point]

    def at(self, steps: int, diversity: float) -> Point | None:
        """Interpolate between guidance scales; None: no scale gives so much, or so little."""
        curve = sorted((one for one in self.points if one.steps == steps), key=lambda one: one.diversity)
        known = [one.diversity for one in curve]
        if not known[0] <= diversity <= known[-1]:
            return None

        def between(values: Sequence[float]) -> float:
            return float(np.interp(diversity, known, values))

        figures = {name: between([one.figures[name] for one in curve]) for name in FIGURES}
        guidance, milliseconds = between([one.guidance for one in curve]), between([one.milliseconds for one in curve])
        return Point(steps, guidance, diversity, milliseconds, figures)

    def usual(self, steps: int) -> Point:
        """Return the point of so many steps whose guidance scale is 1, which is none, or else the nearest to it."""
        return min((one for one in self.points if one.steps == steps), key=lambda one: abs(one.guidance - 1.0))

    @property
    def is_random(self) -> bool:
        """Whether it gives a caption different samples, under any scale."""
        return max(one.diversity for one in self.points) > _ALIKE


def measure(store: Store, record: RunRecord, steps: Sequence[int], scales: Sequence[float]) -> Measured:
    """Sample a run's prior for its held-out captions under every scale.

    Raises:
        UsageError: the run has no prior that was trained on captions.
    """
    section = RunConfig.model_validate(record.config).train_prior
    if section is None or section.learned_from == "images":
        raise UsageError(f"run {record.run}: has no prior that learned from captions: name a run that trains one")
    embeddings = store.artifact("embed_clip", record.plan["embed_clip"].fingerprint)
    prior, clips = load_prior(store.artifact("train_prior", record.plan["train_prior"].fingerprint))
    pairs = load_pairs(section, embeddings, text_state_names(section, embeddings)).held_out
    points = []
    for how in _settings_of(prior, steps, scales):
        found = evaluate(prior, pairs, how, block_dims=clips.block_dims, seed=section.seed)
        ((taken, report),) = found.by_steps.items()
        (sampling,) = samplings_of(how, prior.spec).values()
        figures = {name: report[key] for name, key in FIGURES.items()}
        points.append(
            Point(taken, sampling.guidance_scale, report["diversity"], _milliseconds(prior, pairs, sampling), figures)
        )
    return Measured(name_of(prior.spec), sum(one.numel() for one in prior.parameters()), points)


def _settings_of(prior: Prior, steps: Sequence[int], scales: Sequence[float]) -> list[ValidationConfig]:
    """Return how it is sampled: under each scale that its kind takes."""
    match prior.spec.sampling:
        case "steps" if not prior.spec.num_sampling_steps:
            return [
                DiffusionValidationConfig(num_steps=(count,), guidance_scale=scale, samples_per_caption=_SAMPLES)
                for count in steps
                for scale in scales
            ]
        case "guidance":
            return [AutoregressiveValidationConfig(guidance_scale=one, samples_per_caption=_SAMPLES) for one in scales]
        case _:
            return [ValidationConfig(samples_per_caption=_SAMPLES)]


def _milliseconds(prior: Prior, pairs: Pairs, sampling: PriorSampling) -> float:
    rows = torch.arange(min(_TIMED, len(pairs)))
    text = pairs.take(rows, torch.zeros(len(rows), dtype=torch.float64))[1]
    seconds = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        prior.sample(text, list(range(len(rows))), sampling)
        seconds.append(time.perf_counter() - begun)
    return 1000 * min(seconds) / len(rows)


def name_of(spec: PriorSpec) -> str:
    """Name a prior by what sets kinds apart."""
    known = {name: getattr(spec, name, None) for name in ("source", "standardise", "noise_scale")}
    parts = [f"{name} {value}" for name, value in known.items() if value is not None]
    if (num_gaussians := getattr(spec, "num_gaussians", 1)) > 1:
        parts.append(f"k {num_gaussians}")
    if getattr(spec, "distilled", None) is not None:  # or a student would stand in its teacher's row
        parts.append("distilled")
    return ", ".join([spec.kind, *parts])


def rows_of(measured: Sequence[Measured], diversity: float | None) -> Rows:
    """Return the points at a diversity by name, parameters and steps; None: those of priors that sample at none."""
    rows: dict[tuple[str, int, int], list[Point]] = defaultdict(list)
    for one in measured:
        for steps in sorted({point.steps for point in one.points}):
            found = one.usual(steps) if diversity is None else one.at(steps, diversity)
            if found is not None and one.is_random == (diversity is not None):
                rows[one.name, one.parameters, steps].append(found)
    return rows


def table_of(tables: Mapping[str, Rows]) -> Table:
    """Return the tables as one, a section for each diversity."""
    table = Table(title="held-out captions", title_justify="left")
    numbers = ("runs", "parameters", "steps", "diversity", "guidance", "ms a caption", *FIGURES)
    for heading in ("prior", *numbers):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for rows in tables.values():
        table.add_section()
        for key, points in rows.items():
            table.add_row(*_cells(key, points))
    return table


def _cells(key: tuple[str, int, int], points: Sequence[Point]) -> list[str]:
    name, parameters, steps = key
    return [
        name, str(len(points)), f"{parameters:,}", str(steps),
        _cell([one.diversity for one in points]),
        _cell([one.guidance for one in points], 2),
        _cell([one.milliseconds for one in points], 2),
        *(_cell([one.figures[figure] for one in points], 5 if figure == "mmd" else 3) for figure in FIGURES),
    ]  # fmt: skip


def _cell(values: Sequence[float], digits: int = 3) -> str:
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def plot(rows: Rows, file: Path) -> None:
    """Plot R@5 and the centred cosine by sampling steps and by time."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for name in dict.fromkeys(name for name, _, _ in rows):
        own = {steps: points for (other, _, steps), points in rows.items() if other == name}
        for row, what in zip(axes, ("R@5", "centred"), strict=True):
            means = [np.mean([one.figures[what] for one in points]) for points in own.values()]
            spreads = [np.std([one.figures[what] for one in points]) for points in own.values()]
            times = [np.mean([one.milliseconds for one in points]) for points in own.values()]
            for axis, values in zip(row, ([max(steps, 1) for steps in own], times), strict=True):
                axis.errorbar(values, means, spreads, marker="o", capsize=3, label=name)
    for row, what in zip(axes, ("R@5", "centred cosine"), strict=True):
        for axis, label in zip(row, ("sampling steps", "ms a caption"), strict=True):
            axis.set_xscale("log")
            axis.set(xlabel=label, ylabel=what)
    axes[0][0].legend(fontsize="small")
    figure.savefig(file, metadata={"Software": None})


def main(words: Sequence[str] | None = None) -> None:
    """Measure all runs, print the table, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--store", default="workspace")
    parser.add_argument("--out", type=Path, default=Path("workspace/diversity"))
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 64])
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--diversity", type=float, nargs="+", default=[0.05, 0.2, 0.4])
    given = parser.parse_args(words)
    try:
        store = Store(given.store)
        records = [store.find_run(name) for name in given.runs]
        measured = [measure(store, record, given.steps, given.guidance) for record in records]
    except (UsageError, StageError) as error:
        sys.exit(f"benchmarks.diversity: {error}")
    tables = {f"{one:g}": rows_of(measured, one) for one in given.diversity} | {"none": rows_of(measured, None)}
    given.out.mkdir(parents=True, exist_ok=True)
    found = [{"run": record.run} | asdict(one) for record, one in zip(records, measured, strict=True)]
    (given.out / "diversity.json").write_text(json.dumps(found, indent=1))
    for name, rows in tables.items():
        plot({**rows, **tables["none"]}, given.out / f"diversity_{name}.png")
    Console(width=200).print(table_of(tables))


if __name__ == "__main__":
    main()
