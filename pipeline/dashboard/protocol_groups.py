"""Figures of several runs, those apart that were not measured alike: side by side, and against the captions read."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.captions import caption_fraction
from pipeline.comparison import decoder_kind
from pipeline.dashboard.runs import metric, supervision
from pipeline.protocols import describe_differences, group_by_protocol, protocol_of
from pipeline.record import RunRecord
from pipeline.tracking_state import flatten

_SEED: Final = "seed"
_DATA: Final = "download_shards."
_FRACTION: Final = ".captions.fraction"
_MOST_NAMED: Final = 3  # settings of a line that are named


def side_by_side(records: Sequence[RunRecord], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each metric the groups of runs whose figures may stand beside one another, and what others differ in.

    A group holds the runs' numbers among those that are compared; figures of no recorded protocol are one of their own.
    """
    found = []
    for name in names:
        groups = group_by_protocol(records, [name if name in record.metrics else None for record in records])
        if groups:
            listed = [{"runs": list(group.runs), "is_recorded": bool(group.digest)} for group in groups]
            found.append({"name": name, "groups": listed, "differences": describe_differences(name, groups, records)})
    return found


def against_fraction(records: Sequence[RunRecord], name: str) -> dict[str, Any]:
    """Return a metric against the fraction of the images whose captions the prior read, a group for each protocol.

    Within a group, the runs whose settings differ in nothing but that fraction and seeds are a line; those of its
    points that differ in seeds alone are one point: their mean, with the standard deviation over them.
    """
    having = [record for record in records if name in record.metrics and supervision(record)[1] is not None]
    groups = group_by_protocol(having, [name] * len(having), but_for=(_SEED,))
    return {
        "groups": [
            {
                "is_recorded": bool(protocol_of(having[group.runs[0]], name)),
                "lines": _lines([having[number] for number in group.runs], name),
            }
            for group in groups
        ],
        "differences": describe_differences(name, groups, having),
    }


def _lines(records: Sequence[RunRecord], name: str) -> list[dict[str, Any]]:
    lines: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for record in records:
        lines.setdefault(tuple(sorted(_settings(record).items())), []).append(record)
    settings = [dict(line) for line in lines]
    differing = [
        key for key in sorted({key for one in settings for key in one}) if len({one.get(key) for one in settings}) > 1
    ]
    return [
        {"label": _label(runs, one, differing), "points": _points(runs, name)}
        for runs, one in zip(lines.values(), settings, strict=True)
    ]


def _settings(record: RunRecord) -> dict[str, str]:
    """Return all that the run's stages are identified by, without the fraction of the captions and seeds of training.

    The seed of the data stays: runs on other data are no repeats.
    """
    flat = dict(flatten({name: planned.identity for name, planned in record.plan.items()}))
    return {key: value for key, value in flat.items() if not _is_left_out(key)}


def _is_left_out(key: str) -> bool:
    return key.endswith(_FRACTION) or (key.rpartition(".")[2] == _SEED and not key.startswith(_DATA))


def _label(runs: Sequence[RunRecord], settings: Mapping[str, str], differing: Sequence[str]) -> str:
    names = ", ".join(dict.fromkeys(record.name for record in runs))
    words = [f"{key} {settings.get(key, 'none')}" for key in differing[:_MOST_NAMED]]
    further = len(differing) - len(words)
    return "; ".join(
        [f"{names}, {decoder_kind(runs[0])}", *words, *([f"{further} further settings"] if further > 0 else [])]
    )


def _points(records: Sequence[RunRecord], name: str) -> list[dict[str, Any]]:
    by_fraction: dict[float, list[RunRecord]] = {}
    for record in records:
        by_fraction.setdefault(_asked(record), []).append(record)
    return [_point(by_fraction[fraction], name) for fraction in sorted(by_fraction)]


def _asked(record: RunRecord) -> float:
    planned = record.plan.get("train_prior")
    return (None if planned is None else caption_fraction(planned.identity)) or 0.0


def _point(records: Sequence[RunRecord], name: str) -> dict[str, Any]:
    runs = [{"run": record.run, **metric(record, name)} for record in records]
    values = [run["value"] for run in runs if run["value"] is not None]
    fractions = [fraction for record in records if (fraction := supervision(record)[1]) is not None]
    return {
        "fraction": statistics.fmean(fractions),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "runs": runs,
    }
