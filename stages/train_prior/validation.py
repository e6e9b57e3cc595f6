"""Judge a prior on held-out pairs by the number of sampling steps."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.priors import Prior, PriorSampling, TextFeatures
from models.similarity import embedding_report
from stages.train_prior.config import DiffusionValidationConfig
from stages.train_prior.data import Pairs

Reports = dict[int, dict[str, float]]
_CHUNK = 512


def report_by_steps(
    prior: Prior, pairs: Pairs, config: DiffusionValidationConfig, *, block_dims: Sequence[int], seed: int
) -> Reports:
    """Return the measures of :func:`models.similarity.embedding_report` for each number of sampling steps."""
    return {
        steps: embedding_report(_sample_all(prior, pairs.text, config, steps, seed), pairs.image, block_dims)
        for steps in config.num_steps
    }


def _sample_all(
    prior: Prior, text: Float[Tensor, "pairs embed"], config: DiffusionValidationConfig, num_steps: int, seed: int
) -> Float[Tensor, "pairs embed"]:
    """Sample an embedding for each caption; the seeds are the same for any number of steps."""
    seeds = np.random.SeedSequence(seed).generate_state(len(text), np.uint32).tolist()
    device = next(prior.parameters()).device
    parts = [
        prior.sample(
            TextFeatures(text[first : first + _CHUNK].to(device)),
            seeds[first : first + _CHUNK],
            PriorSampling(num_steps=num_steps, guidance_scale=config.guidance_scale),
        ).cpu()
        for first in range(0, len(text), _CHUNK)
    ]
    return torch.cat(parts)


def as_metrics(reports: Reports) -> dict[str, float]:
    """Name the measures: bare names for the most steps, ``<name>/steps_<n>`` for every number of steps."""
    by_steps = {f"{name}/steps_{steps}": value for steps, report in reports.items() for name, value in report.items()}
    return by_steps | reports[max(reports)]


def plot_reports(reports: Mapping[int, Mapping[str, float]]) -> bytes:
    """Draw the measures against the number of sampling steps, as a PNG."""
    panels = {
        "cosine": ("cosine_true", "cosine_unrelated"),
        "ratio to true embeddings": ("norm_ratio", "variance_ratio"),
        "retrieval": ("retrieval_at_1", "retrieval_at_5", "retrieval_at_10"),
    }
    from matplotlib.figure import Figure

    steps = list(reports)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(steps, [reports[n][name] for n in steps], marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set(xlabel="sampling steps", title=title, xticks=steps, xticklabels=steps)
        axis.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
