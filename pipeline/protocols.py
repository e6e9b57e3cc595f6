"""Which figures of several runs may stand side by side: those of one protocol, and what others differ in."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.record import RunRecord
from stages.contract.measures import Protocol, protocol_differences, protocol_digest
from stages.contract.texts import one_line

NOT_RECORDED = "its protocol was not recorded"
_LONGEST = 120  # characters of one side of a difference
_HELD_OUT = "held_out"
_WORDS = {_HELD_OUT: "it was validated on other held-out images, digest of their keys"}


@dataclass(frozen=True)
class ProtocolGroup:
    """Runs whose figure of one name has the same protocol; "" is that of figures without one."""

    digest: str
    runs: tuple[int, ...]
    """Their numbers among the runs that are compared."""


def protocol_of(record: RunRecord, metric: str) -> str:
    """Return the digest of the protocol of a run's metric; "": it has none."""
    measure = record.measures.get(metric)
    return "" if measure is None else measure.protocol


def group_by_protocol(
    records: Sequence[RunRecord], metrics: Sequence[str | None], *, but_for: Sequence[str] = ()
) -> list[ProtocolGroup]:
    """Return the runs that have a figure, by its protocol; ``metrics`` holds the name of each run's, if it has one.

    Protocols that differ in nothing but what ``but_for`` names count as one.
    """
    groups: dict[str, list[int]] = {}
    digests: dict[str, str] = {}
    for number, (record, metric) in enumerate(zip(records, metrics, strict=True)):
        if metric is not None:
            digest = protocol_of(record, metric)
            known = {key: value for key, value in record.protocols.get(digest, {}).items() if key not in but_for}
            same = protocol_digest(known) if digest and but_for else digest
            groups.setdefault(same, []).append(number)
            digests.setdefault(same, digest)
    return [ProtocolGroup(digests[same], tuple(runs)) for same, runs in groups.items()]


def describe_differences(name: str, groups: Sequence[ProtocolGroup], records: Sequence[RunRecord]) -> list[str]:
    """Return a line for each group after the first: what it was measured otherwise by than that."""
    return [
        f"{name}: {_names(group, records)} cannot be compared with {_names(groups[0], records)}: "
        f"{_difference(groups[0], group, records)}"
        for group in groups[1:]
    ]


def describe_held_out(records: Sequence[RunRecord]) -> list[str]:
    """Return a line for each stage and other held-out images than those of the first run that has the stage.

    It holds for the figures without a protocol, too, which stand side by side in one row.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for number, record in enumerate(records):
        for name, measure in record.measures.items():
            if (held_out := record.protocols.get(measure.protocol, {}).get(_HELD_OUT)) is not None:
                runs = groups.setdefault(name.partition("/")[0], {}).setdefault(held_out, [])
                runs += [] if number in runs else [number]
    return [
        f"{stage}: what {_names(other, records)} found in validation is of other held-out images than in "
        f"{_names(first, records)}: none of these figures can be compared: validate on the same (split, sources)"
        for stage, runs_of in groups.items()
        for first, *others in [[ProtocolGroup(key, tuple(runs)) for key, runs in runs_of.items()]]
        for other in others
    ]


def _names(group: ProtocolGroup, records: Sequence[RunRecord]) -> str:
    return ", ".join(records[number].run for number in group.runs)


def _difference(one: ProtocolGroup, other: ProtocolGroup, records: Sequence[RunRecord]) -> str:
    if not one.digest or not other.digest:
        return NOT_RECORDED
    sides = [_protocol(group, records) for group in (one, other)]
    found = protocol_differences(*sides)
    return "; ".join(f"{_WORDS.get(key, key)} {_shown(new)}, not {_shown(old)}" for key, (old, new) in found.items())


def _protocol(group: ProtocolGroup, records: Sequence[RunRecord]) -> Protocol:
    return records[group.runs[0]].protocols.get(group.digest, {})


def _shown(value: str) -> str:
    return one_line(value, _LONGEST) or "none"
