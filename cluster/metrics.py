"""Measurements on Ray's Prometheus endpoint, one on each node (``ray_corgi_…``); every process labels its own.

Labels have few values: the run, the stage, and a cause of a fixed list. Where nobody reads the endpoint, a measurement
costs microseconds.
"""

from collections.abc import Mapping
from typing import Any, Final

RUN, STAGE, CAUSE = "run", "stage", "cause"

#: What is measured, by name: what it means, and its further label.
GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "corgi_stage_running": ("1 while a stage runs, else 0", ()),
    "corgi_units_done": ("Shards, steps or images that a stage has done", ()),
    "corgi_units_planned": ("How many of them there are", ()),
    "corgi_items_done": ("Images, samples or prompts that a stage has handled", ()),
    "corgi_items_per_second": ("Items per second since the report before", ()),
    "corgi_items_failed": ("Items that a finished stage lost, by cause", (CAUSE,)),
    "corgi_step": ("Training step", ()),
    "corgi_loss": ("Training loss", ()),
    "corgi_samples_per_second": ("Samples per second of training", ()),
    "corgi_data_wait_fraction": ("Fraction of training time spent waiting for data", ()),
}
COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "corgi_workers_lost": ("Workers of data stages that were lost", ()),
    "corgi_items_retried": ("Shards that went to another worker", ()),
    "corgi_items_set_aside": ("Shards that were set aside, as they took down several workers", ()),
    "corgi_training_restarts": ("Restarts of training groups that lost a process", ()),
}

_labels: dict[str, str] = {}
_made: dict[str, Any] = {}


def label_process(run: str, stage: str) -> None:
    """Set the run and the stage that this process counts for."""
    _labels.update({RUN: run, STAGE: stage})


def set_gauge(name: str, value: float, **labels: str) -> None:
    """Set a measurement of GAUGES, for this process's run and stage where they are not given."""
    from ray.util.metrics import Gauge

    if name not in _made:
        about, further = GAUGES[name]
        _made[name] = Gauge(name, description=about, tag_keys=(RUN, STAGE, *further))
    _made[name].set(value, tags=_labelled(labels))


def count(name: str) -> None:
    """Count one more of COUNTERS, for this process's run and stage; nothing where it works for none."""
    from ray.util.metrics import Counter

    if not _labels:
        return
    if name not in _made:
        about, further = COUNTERS[name]
        _made[name] = Counter(name, description=about, tag_keys=(RUN, STAGE, *further))
    _made[name].inc(1, tags=_labelled({}))


def _labelled(labels: Mapping[str, str]) -> dict[str, str]:
    return {RUN: "", STAGE: "", **_labels, **labels}
