"""Which figures of several runs may stand side by side: those of one protocol, and what others differ in."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.record import RunRecord
from stages.contract.measures import Protocol, protocol_differences, protocol_digest
from stages.contract.texts import one_line

NOT_RECORDED = "its protocol was not recorded"
_LONGEST = 120  # characters of one side of a difference


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


def _names(group: ProtocolGroup, records: Sequence[RunRecord]) -> str:
    return ", ".join(records[number].run for number in group.runs)


def _difference(one: ProtocolGroup, other: ProtocolGroup, records: Sequence[RunRecord]) -> str:
    if not one.digest or not other.digest:
        return NOT_RECORDED
    sides = [_protocol(group, records) for group in (one, other)]
    found = protocol_differences(*sides)
    return "; ".join(f"{key} {_shown(new)}, not {_shown(old)}" for key, (old, new) in found.items())


def _protocol(group: ProtocolGroup, records: Sequence[RunRecord]) -> Protocol:
    return records[group.runs[0]].protocols.get(group.digest, {})


def _shown(value: str) -> str:
    return one_line(value, _LONGEST) or "none"
