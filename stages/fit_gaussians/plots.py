"""Images of a fit: how it converged, and how many embeddings each Gaussian holds."""

import io
from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor


def convergence_plot(inertia_per_embedding: Sequence[float]) -> bytes:
    """Return a PNG: mean squared distance to the nearest mean, by pass."""
    figure, axis = _figure()
    axis.plot(range(1, len(inertia_per_embedding) + 1), inertia_per_embedding, marker=".")
    axis.set(title="Convergence", xlabel="pass", ylabel="mean squared distance to the nearest mean")
    return _png(figure)


def occupancy_plot(counts: Int[Tensor, "gauss"]) -> bytes:
    """Return a PNG: members of each Gaussian, the largest first, beside equal sizes."""
    figure, axis = _figure()
    ordered = counts.sort(descending=True).values.tolist()
    axis.fill_between(range(1, len(ordered) + 1), ordered, step="mid", alpha=0.6)
    axis.axhline(sum(ordered) / len(ordered), color="black", linewidth=0.8, linestyle="--")
    axis.set(title="Occupancy (dashed: equal sizes)", xlabel="Gaussian, by size", ylabel="embeddings")
    axis.set_ylim(bottom=0)
    return _png(figure)


def _figure() -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()
