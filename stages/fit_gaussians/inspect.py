"""What ``corgi inspect`` finds of Gaussians: their sizes, and images of the largest ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stages.contract.findings import QUANTILES, Findings, InspectionContext, evenly, quantiles
from stages.formats.embeddings.reader import load_image_rows, load_keys, shard_rows
from stages.formats.filtered import filter_inputs
from stages.formats.gaussians import read_gaussians
from stages.formats.sample_sheets import add_sheet
from stages.storage.artifact import Artifact

BLOCK = 1024
GAUSSIANS_LISTED, GAUSSIANS_SHOWN, EXAMPLES = 32, 12, 6


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add the Gaussians by occupancy, with the images of some shards that lie nearest to the largest ones' means."""
    if not artifact.is_complete:
        return
    fitted = read_gaussians(artifact)
    counts, means, stds = fitted.counts, fitted.means, fitted.stds
    order = np.argsort(-counts, kind="stable")
    rows = [
        (int(g), int(counts[g]), f"{counts[g] / counts.sum():.2%}", f"{float(stds[g].mean()):.4g}")
        for g in order[:GAUSSIANS_LISTED]
    ]
    findings.add_table(
        f"occupancy of the {len(rows)} largest of {len(counts)} Gaussians",
        ("Gaussian", "embeddings", "fraction", "mean standard deviation"),
        rows,
    )
    sizes = dict(zip(QUANTILES, quantiles(counts.tolist()), strict=True))
    findings.add_figures("members of a Gaussian", sizes | {"empty": int((counts == 0).sum())})
    _add_examples(findings, context, counts, means)


def _add_examples(findings: Findings, context: InspectionContext, counts: np.ndarray, means: np.ndarray) -> None:
    embeddings, shards = (context.input_of(name) for name in ("embed_clip", "download_shards"))
    if embeddings is None or shards is None:
        findings.notes.append("examples: the embeddings or the shards that the Gaussians were fitted on are not here")
        return
    kept = context.input_of("filter_samples")
    sources = {"embed_clip": embeddings} | ({"filter_samples": kept} if kept is not None else {})
    seen = filter_inputs(sources)["embed_clip"]
    names = evenly(list(shard_rows(seen)), context.max_shards)
    findings.notes.append(f"examples: the nearest of {len(names)} of {len(shard_rows(seen))} shards")
    order = np.argsort(-counts, kind="stable")
    chosen = order[: min(GAUSSIANS_SHOWN, int((counts > 0).sum()))]
    nearest = _nearest_members(seen, names, means, chosen)
    samples = [
        (shard, key, f"Gaussian {g}: {counts[g] / counts.sum():.1%}")
        for g in chosen
        for _, shard, key in nearest[int(g)]
    ]
    add_sheet(findings, shards, samples, "images nearest to the means of the largest Gaussians")


def _nearest_members(
    embeddings: Artifact, names: Sequence[str], means: Float[np.ndarray, "gauss embed"], chosen: np.ndarray
) -> dict[int, list[tuple[float, str, str]]]:
    """Return for each chosen Gaussian the members nearest to its mean: squared distance, shard, key."""
    found: dict[int, list[tuple[float, str, str]]] = {int(g): [] for g in chosen}
    squares = (means.astype(np.float64) ** 2).sum(axis=1)
    for name in names:
        rows, keys = load_image_rows(embeddings, name).astype(np.float64), load_keys(embeddings, name)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            distances = squares - 2 * block @ means.astype(np.float64).T + (block**2).sum(axis=1, keepdims=True)
            owner = distances.argmin(axis=1)
            for g, best in found.items():
                here = np.flatnonzero(owner == g)
                best += [(float(distances[row, g]), name, keys[first + row]) for row in here]
                best.sort()
                del best[EXAMPLES:]
    return found
