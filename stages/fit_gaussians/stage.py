"""Fit the Gaussians in passes over the shards; memory holds a shard and a sample, never all embeddings."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from cluster.mapping import Mapper, WorkerResources, map_in_process
from models.gaussians import FittedGaussians, KMeansState, Moments, fit_kmeans, moments_of, starting_means
from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.embeddings import clip_identity, load_image_rows, open_image_rows, shard_rows
from stages.errors import InputFault
from stages.events import Metrics, Progress
from stages.fit_gaussians.config import FitGaussiansConfig

GAUSSIANS = "gaussians.safetensors"
STATE = "checkpoints/state.safetensors"
NUM_GROUPS = 32  # shards are added up in this many groups, whatever the number of workers: same sums, same result
SMALL_WORK = 1e12  # multiplications in a pass below which starting workers would take longer than the pass


@dataclass(frozen=True)
class GroupOfShards:
    """Shards whose moments are added up in one go, and the means that the moments are about."""

    number: int
    shards: tuple[str, ...]
    means: Float[Tensor, "gauss embed"]


def run(
    config: FitGaussiansConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Fit the Gaussians, going on from the last iteration that an interrupted run finished.

    Raises:
        InputFault: there are fewer (different) embeddings than Gaussians, or one is not finite.
    """
    embeddings = inputs["embed_clip"]
    rows = shard_rows(embeddings)
    _check_enough(config, sum(rows.values()))
    sample = torch.from_numpy(take_sample(embeddings, rows, config.sample_size, config.seed))
    work = sum(rows.values()) * config.num_gaussians * sample.shape[1]
    mapper = map_in_process if work < SMALL_WORK else context.map_shards
    resources = WorkerResources(context.resources.num_workers, context.resources.cpus_per_worker)
    one_pass = functools.partial(_moments_of_all, embeddings, list(rows), mapper, resources)
    try:
        fitted = _fit(config, sample, one_pass, output, context)
    except ValueError as error:
        raise InputFault(f"fit_gaussians: {error}") from error
    _publish(config, fitted, len(sample), clip_identity(embeddings), output)
    return _summary(fitted)


def take_sample(
    embeddings: Artifact, rows: Mapping[str, int], size: int, seed: int
) -> Float[np.ndarray, "sample embed"]:
    """Draw rows evenly from all embeddings without replacement, in their order; all of them if there are no more."""
    total = sum(rows.values())
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(size, total), replace=False))
    parts, first = [], 0
    for shard, count in rows.items():
        low, high = np.searchsorted(chosen, (first, first + count))
        if high > low:
            parts.append(np.asarray(open_image_rows(embeddings, shard)[chosen[low:high] - first], dtype=np.float32))
        first += count
    return np.concatenate(parts)


def _check_enough(config: FitGaussiansConfig, total: int) -> None:
    if config.num_gaussians > min(total, config.sample_size):
        raise InputFault(
            f"fit_gaussians.num_gaussians: found {config.num_gaussians} with {total} image embeddings and "
            f"sample_size {config.sample_size}: allowed is at most the smaller of the two: lower num_gaussians, "
            "or give more images"
        )


def _fit(
    config: FitGaussiansConfig,
    sample: Tensor,
    one_pass: Callable[[Tensor], Moments],
    output: Output,
    context: StageContext,
) -> FittedGaussians:
    def on_iteration(state: KMeansState) -> None:
        _save_state(state, output)
        step = len(state.inertias)
        context.emit(Progress(step, config.max_iterations, "iterations"))
        context.emit(Metrics({"inertia": state.inertias[-1]}, step))

    state = _load_state(output) or KMeansState(starting_means(sample, config.num_gaussians, config.seed))
    context.emit(Progress(len(state.inertias), config.max_iterations, "iterations"))
    return fit_kmeans(
        state,
        sample,
        one_pass,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        on_iteration=on_iteration,
    )


def _moments_of_all(
    embeddings: Artifact, shards: list[str], mapper: Mapper, resources: WorkerResources, means: Tensor
) -> Moments:
    """Make one pass over all shards; sums are added in the groups' order, whichever is ready first."""
    groups = [GroupOfShards(n, tuple(shards[n::NUM_GROUPS]), means) for n in range(min(NUM_GROUPS, len(shards)))]
    results = mapper(functools.partial(_make_worker, embeddings), groups, resources)
    total = Moments.zero(*means.shape)
    for moments in _in_order(results):
        total += moments
    return total


def _make_worker(embeddings: Artifact) -> Callable[[GroupOfShards], tuple[int, Moments]]:
    def add_up(group: GroupOfShards) -> tuple[int, Moments]:
        total = Moments.zero(*group.means.shape)
        for shard in group.shards:
            total += moments_of(torch.from_numpy(load_image_rows(embeddings, shard)), group.means)
        return group.number, total

    return add_up


def _in_order(results: Iterator[tuple[int, Moments]]) -> Iterator[Moments]:
    waiting: dict[int, Moments] = {}
    following = 0
    for number, moments in results:
        waiting[number] = moments
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _save_state(state: KMeansState, output: Output) -> None:
    with output.writing(STATE) as path:
        save_file({"means": state.means, "inertias": torch.tensor(state.inertias, dtype=torch.float64)}, path)


def _load_state(output: Output) -> KMeansState | None:
    if not output.exists(STATE):
        return None
    saved = load_file(output.local(STATE))
    return KMeansState(saved["means"], tuple(saved["inertias"].tolist()))


def _publish(
    config: FitGaussiansConfig,
    fitted: FittedGaussians,
    sample_size: int,
    clips: list[dict[str, Any]],
    output: Output,
) -> None:
    """Write the Gaussians and how they were fitted; both say of which CLIP models the embeddings were."""
    tensors = {"means": fitted.means, "stds": fitted.stds, "counts": fitted.counts}
    with output.writing(GAUSSIANS) as path:
        save_file(tensors, path, metadata={"clip": json.dumps(clips, sort_keys=True)})
    output.write_json(
        "fit.json",
        {
            "clip": clips,
            "method": "k-means, Lloyd's iterations from k-means++ on a sample",
            "num_gaussians": config.num_gaussians,
            "embeddings": int(fitted.counts.sum()),
            "sample_size": sample_size,
            "seed": config.seed,
            "iterations": len(fitted.inertias),
            "converged": fitted.converged,
            "inertias": list(fitted.inertias),
            "counts": fitted.counts.tolist(),
        },
    )
    output.remove("checkpoints")


def _summary(fitted: FittedGaussians) -> StageSummary:
    counts = fitted.counts.double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    return StageSummary(
        items=int(counts.sum()),
        item_name="embeddings",
        counts={"gaussians": len(counts), "empty_gaussians": int((counts == 0).sum())},
        metrics={
            "smallest_gaussian": float(counts.min()),
            "largest_gaussian": float(counts.max()),
            "effective_gaussians": float(entropy.exp()),  # exp(entropy of the occupancy): k when all are equal
            "iterations": float(len(fitted.inertias)),
            "mean_std": float(fitted.stds.mean()),
        },
    )
