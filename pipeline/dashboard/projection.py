"""The Gaussians of a run in two dimensions: principal components of its embeddings, occupancy, nearest images."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from stages.contract.findings import evenly
from stages.formats.embeddings.reader import load_image_rows, load_keys, shard_rows
from stages.formats.gaussians import read_gaussians
from stages.storage.artifact import Artifact

MOST_ROWS: Final = 3000
"""Embeddings whose components are computed, and that are shown."""
MOST_SHARDS: Final = 16


@dataclass(frozen=True)
class Projection:
    """Means and embeddings along two principal components, and the Gaussian that each embedding is nearest to."""

    means: Float[np.ndarray, "gauss 2"]
    radii: Float[np.ndarray, " gauss"]
    """Standard deviations, root of their mean square over the dimensions."""
    counts: Int[np.ndarray, " gauss"]
    rows: Float[np.ndarray, "rows 2"]
    owners: Int[np.ndarray, " rows"]
    distances: Float[np.ndarray, " rows"]
    """To the owner's mean."""
    explained: tuple[float, float]
    """Fraction of the variance along each component."""
    positions: tuple[tuple[str, str], ...]
    """Shard and key of each embedding."""
    total: int
    """Embeddings of all shards."""

    @classmethod
    def of(cls, gaussians: Artifact, embeddings: Artifact) -> "Projection":
        """Project the Gaussians and some embeddings, evenly chosen."""
        fitted = read_gaussians(gaussians)
        means, stds, counts = (array.astype(np.float64) for array in (fitted.means, fitted.stds, fitted.counts))
        rows, positions = _some_rows(embeddings)
        centre = rows.mean(axis=0)
        _, singular, axes = np.linalg.svd(rows - centre, full_matrices=False)
        parts = singular**2 / max(float((singular**2).sum()), 1e-12)
        distances = np.sqrt(np.maximum(_squares(rows, means), 0.0))
        owners = distances.argmin(axis=1)
        return cls(
            (means - centre) @ axes[:2].T,
            np.sqrt((stds**2).mean(axis=1)),
            counts.astype(np.int64),
            (rows - centre) @ axes[:2].T,
            owners,
            distances[np.arange(len(rows)), owners],
            (float(parts[0]), float(parts[1])),
            tuple(positions),
            sum(shard_rows(embeddings).values()),
        )

    def nearest(self, gaussian: int, count: int) -> list[int]:
        """Return the shown embeddings of a Gaussian that are nearest to its mean."""
        own = np.flatnonzero(self.owners == gaussian)
        return [int(row) for row in own[np.argsort(self.distances[own], kind="stable")][:count]]


def _some_rows(embeddings: Artifact) -> tuple[Float[np.ndarray, "rows embed"], list[tuple[str, str]]]:
    names = evenly(list(shard_rows(embeddings)), MOST_SHARDS)
    parts, positions = [], []
    for name in names:
        rows, keys = load_image_rows(embeddings, name), load_keys(embeddings, name)
        chosen = evenly(range(len(rows)), MOST_ROWS // len(names))
        parts.append(rows[chosen].astype(np.float64))
        positions += [(name, keys[row]) for row in chosen]
    return np.concatenate(parts), positions


def _squares(rows: Float[np.ndarray, "rows embed"], means: Float[np.ndarray, "gauss embed"]) -> np.ndarray:
    """Return |x - mu|^2 = |x|^2 - 2 x.mu + |mu|^2: [rows, gauss]."""
    found: np.ndarray = (rows**2).sum(axis=1)[:, None] - 2 * rows @ means.T + (means**2).sum(axis=1)[None]
    return found
