"""Fit the Gaussians: first means from a sample, then exact passes over all shards, one block in memory at a time."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, from_numpy

from cluster.mapping import map_in_process
from cluster.owned_folders import scratch_folder
from models.gaussians.initialization import further_means, generator_of, initialize_on_sample
from models.gaussians.kmeans import FittedGaussians, KMeansState, fit_kmeans, placed
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Log, LoggedImage, Metrics, Progress
from stages.contract.stage import StageContext, StageSummary
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.fit_gaussians.passes import Passes, one_thread_each
from stages.fit_gaussians.plots import convergence_plot, occupancy_plot
from stages.fit_gaussians.reports import BetweenPasses, WithinPass
from stages.fit_gaussians.sample import SampleFile, sample_rows
from stages.formats.clips import Clips, read_clips
from stages.formats.embeddings.reader import open_image_rows, shard_rows
from stages.formats.gaussians import (
    GaussianFit,
    read_gaussians,
    read_kmeans_state,
    write_gaussians,
    write_kmeans_state,
)
from stages.storage.artifact import Artifact, Output

INIT_ITERATIONS = 4  # of k-means on the sample, before the passes over all embeddings
SMALL_WORK = 1e12  # multiplications in a pass below which starting workers would take longer than the pass


def run(
    config: FitGaussiansConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Fit the Gaussians, continuing after the last pass that an interrupted run finished."""
    embeddings = inputs["embed_clip"]
    rows = shard_rows(embeddings)
    _check_enough(config, sum(rows.values()))
    last = find_last_fit(config, output)
    with scratch_folder("sample") as folder:
        report = BetweenPasses(config.max_iterations, sum(rows.values()), config.rows_in_sample, context.emit)
        start = Initialization(config, embeddings, rows, folder, report, last)
        try:
            fitted = _fit(config, start, _passes(config, embeddings, rows, context), output, context)
        except ValueError as error:
            raise InputFault(f"fit_gaussians: {error}") from error
    sample_size = min(config.rows_in_sample, sum(rows.values()))
    fit = _describe(config, fitted, sample_size, read_clips(embeddings))
    write_gaussians(output, fitted, fit if last is None else _with_lineage(fit, last))
    _show(fitted, context)
    notes = {} if last is None else {"started_from": f"the means of artifact {last.fingerprint}"}
    return replace(_summary(fitted), notes=notes)


def find_last_fit(config: FitGaussiansConfig, output: Output) -> Artifact | None:
    """Return the fit to begin with; None: the first means come from a sample."""
    if config.grown_from is None:
        return None
    found = next((one for one in output.siblings() if one.fingerprint == config.grown_from), None)
    if found is None or not found.is_complete:
        raise ArtifactError(
            f"fit_gaussians.grown_from: {config.grown_from} is not in the store, or not complete: expected the fit to "
            "begin with: run again, which looks for another, or set fit_gaussians.start: new"
        )
    return found


def _with_lineage(fit: GaussianFit, last: Artifact) -> GaussianFit:
    before = GaussianFit.of(last)
    method = f"{fit.kind} k-means: Lloyd's iterations over all embeddings, from the means of the last fit"
    at_first = before.embeddings_at_first or before.embeddings
    lineage = {"method": method, "grown_from": last.fingerprint, "embeddings_at_first": at_first}
    return fit.model_copy(update=lineage)


@dataclass(frozen=True)
class Initialization:
    """Finds first means, and new ones for Gaussians left empty: of the last fit, or on the documented sample."""

    config: FitGaussiansConfig
    embeddings: Artifact
    rows: Mapping[str, int]
    folder: Path
    report: BetweenPasses
    last: Artifact | None = None

    @functools.cached_property
    def _sample(self) -> SampleFile:
        config, path = self.config, self.folder / "sample"
        size, note = config.rows_in_sample, self.report.rows
        return sample_rows(self.embeddings, self.rows, path, size=size, seed=config.seed, kind=config.kind, note=note)

    def state(self) -> KMeansState:
        """Return the first means: those of the last fit, or of k-means on the sample, from k-means++."""
        config, sample = self.config, self._sample
        if self.last is not None:
            return KMeansState(self._last_means(self.last, sample.scale.shape[0]), sample.scale)
        with one_thread_each():
            return initialize_on_sample(
                sample, sample.make_pass, config.num_gaussians, config.seed, config.kind, iterations=INIT_ITERATIONS
            )

    def _last_means(self, last: Artifact, width: int) -> Float[Tensor, "gauss embed"]:
        means, expected = from_numpy(read_gaussians(last).means), (self.config.num_gaussians, width)
        if means.shape != expected:
            raise InputFault(
                f"fit_gaussians.grown_from: {last.fingerprint} has means of shape {tuple(means.shape)}: expected "
                f"{expected}: leave grown_from out, or set fit_gaussians.start: new"
            )
        return placed(means, self.config.kind)

    def refill(self, number: int, means: Tensor, count: int) -> Float[Tensor, "count embed"]:
        """Sample new means for Gaussians that pass ``number`` left empty, as k-means++ continues from the others."""
        self.report.step = number
        sample, generator = self._sample, generator_of(self.config.seed + number)
        with one_thread_each():
            return further_means(sample, means, count, generator)


def _check_enough(config: FitGaussiansConfig, total: int) -> None:
    if config.num_gaussians > min(total, config.rows_in_sample):
        raise InputFault(
            f"fit_gaussians.num_gaussians: found {config.num_gaussians} with {total} image embeddings and "
            f"sample_size {config.rows_in_sample}: allowed is at most the smaller of the two: lower num_gaussians, "
            "or give more images"
        )


def _passes(config: FitGaussiansConfig, embeddings: Artifact, rows: Mapping[str, int], context: StageContext) -> Passes:
    width = open_image_rows(embeddings, next(iter(rows))).shape[1]
    work = sum(rows.values()) * config.num_gaussians * width
    mapper = map_in_process if work < SMALL_WORK else context.map_shards
    resources = context.resources.for_shards()
    report = WithinPass(config.max_iterations, sum(rows.values()), context.emit)
    return Passes(embeddings, rows, config.kind, mapper, resources, report)


def _fit(
    config: FitGaussiansConfig, start: Initialization, passes: Passes, output: Output, context: StageContext
) -> FittedGaussians:
    def after_pass(state: KMeansState, counts: Tensor) -> None:
        write_kmeans_state(output, state)
        step, total = len(state.inertias), int(counts.sum())
        context.emit(Progress(step, config.max_iterations, "passes", items=step * total))
        per_embedding = {"inertia": state.inertias[-1], "mean_squared_distance": state.inertias[-1] / total}
        context.emit(Metrics(per_embedding | occupancy(counts), step))
        empty = int((counts == 0).sum())
        if empty:
            context.emit(Log(f"fit_gaussians: pass {step} left {empty} Gaussians empty; they start again elsewhere"))

    def begin() -> KMeansState:
        state = read_kmeans_state(output)
        if state is None:
            state = start.state()
            write_kmeans_state(output, state)
            if start.last is not None:
                artifact, given = start.last.fingerprint, len(state.means)
                context.emit(Log(f"fit_gaussians: starts from the {given} means of the last fit, artifact {artifact}"))
        context.emit(Progress(len(state.inertias), config.max_iterations, "passes"))
        return state

    return fit_kmeans(
        begin(),  # not named here, so that the first means are let go when they have moved
        passes,
        start.refill,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        kind=config.kind,
        report=after_pass,
    )


def occupancy(counts: Tensor) -> dict[str, float]:
    """Return how evenly the Gaussians are filled; effective_gaussians is exp(entropy): k when all are equal."""
    fraction = counts.double() / counts.sum()
    entropy = -(fraction * fraction.clamp_min(1e-300).log()).sum()
    return {
        "empty_gaussians": float((counts == 0).sum()),
        "smallest_gaussian": float(counts.min()),
        "largest_gaussian": float(counts.max()),
        "effective_gaussians": float(entropy.exp()),
    }


def _describe(config: FitGaussiansConfig, fitted: FittedGaussians, sample_size: int, clips: Clips) -> GaussianFit:
    return GaussianFit(
        clip=clips.models,
        method=f"{config.kind} k-means: k-means++ and {INIT_ITERATIONS} iterations on a sample drawn evenly, "
        "then Lloyd's iterations over all embeddings",
        kind=config.kind,
        num_gaussians=config.num_gaussians,
        embeddings=int(fitted.counts.sum()),
        sample_size=sample_size,
        seed=config.seed,
        iterations=len(fitted.inertias) + 1,
        converged=fitted.converged,
        inertias=fitted.inertias,
        counts=tuple(fitted.counts.tolist()),
    )


def _show(fitted: FittedGaussians, context: StageContext) -> None:
    total = int(fitted.counts.sum())
    context.emit(LoggedImage("convergence", convergence_plot([inertia / total for inertia in fitted.inertias])))
    context.emit(LoggedImage("occupancy", occupancy_plot(fitted.counts)))
    if not fitted.exact:
        context.emit(
            Log(
                "fit_gaussians: a few embeddings are so much larger than those of the sample that sums were rounded: "
                "with another number of workers the Gaussians may differ in their last digits",
                "WARNING",
            )
        )


def _summary(fitted: FittedGaussians) -> StageSummary:
    found = occupancy(fitted.counts)
    return StageSummary(
        items=int(fitted.counts.sum()),
        item_name="embeddings",
        counts={"gaussians": len(fitted.counts), "empty_gaussians": int(found.pop("empty_gaussians"))},
        metrics=found | {"iterations": float(len(fitted.inertias) + 1), "mean_std": float(fitted.stds.mean())},
    )
