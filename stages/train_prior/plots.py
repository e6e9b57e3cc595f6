"""Plots of an evaluation."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from stages.train_prior.validation import Evaluation, Report

_BY_STEPS = {
    "cosine": ("cosine_true", "cosine_centred", "cosine_unrelated"),
    "ratio to true embeddings": ("norm_ratio", "variance_ratio"),
    "retrieval": ("retrieval_at_1", "retrieval_at_5", "retrieval_at_10"),
    "Fréchet distance": ("frechet",),
    "MMD x 1000": ("cmmd", "mmd"),
    "diversity of one caption's samples": ("diversity",),
}
_BY_TIME = ("cosine_z_0", "cosine_z_t", "cosine_z_0_unrelated", "cosine_z_t_unrelated")


def plot_by_steps(evaluation: Evaluation) -> bytes:
    """Plot the measures against the number of sampling steps, as a PNG; dashed: two halves of the true embeddings."""
    steps = list(evaluation.by_steps)
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    for axis, (title, names) in zip(figure.subplots(2, 3).flat, _BY_STEPS.items(), strict=True):
        for number, name in enumerate(names):
            values = _values(evaluation.by_steps, name)
            axis.plot(steps[: len(values)], values, marker="o", label=name)
            if name in evaluation.reference:
                axis.axhline(evaluation.reference[name], color=f"C{number}", linestyle="--", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set(xlabel="sampling steps", title=title, xticks=steps, xticklabels=steps)
        axis.legend(loc="upper right")  # to look for the best place takes long, and warns of it on a busy machine
    return _png(figure)


def plot_by_time(evaluation: Evaluation) -> bytes:
    """Plot the cosines along the trajectory from noise (left) to embedding (right), as a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name in _BY_TIME:
        values = _values(evaluation.by_time, name)
        axis.plot(list(evaluation.by_time)[: len(values)], values, label=name)
    axis.invert_xaxis()
    axis.set(xlabel="time step t", ylabel="mean cosine", title="similarity by sampling time step")
    axis.legend(loc="upper right")  # to look for the best place takes long, and warns of it on a busy machine
    return _png(figure)


def _values(reports: Mapping[int, Report] | Mapping[float, Report], name: str) -> Sequence[float]:
    """Return the measure of every report; nothing where it was not taken."""
    return [report[name] for report in reports.values() if name in report]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
