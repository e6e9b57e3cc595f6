"""Which figures of several runs may stand side by side: those of one protocol, and what others differ in."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.record import RunRecord
from stages.contract.measures import CAPTIONS, SPLIT, VALIDATED, Protocol, protocol_differences, protocol_digest
from stages.contract.texts import one_line

NOT_RECORDED = "its protocol was not recorded"
_LONGEST = 120  # characters of one side of a difference
_WORDS = {
    VALIDATED: "it was validated on other held-out images, digest of their keys",
    CAPTIONS: "it was validated on other captions,",
    SPLIT: "it was validated by another split of the images, digest of the keys put aside",
}
_UNKNOWN = "an earlier version recorded the split, and not which held-out images and captions it validated on"
_DATA = (VALIDATED, CAPTIONS, SPLIT)
_Data = tuple[tuple[str, str], ...]
"""What a protocol says of the data that a validation was of."""


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
        f"{name}: {_names(group.runs, records)} cannot be compared with {_names(groups[0].runs, records)}: "
        f"{_difference(groups[0], group, records)}"
        for group in groups[1:]
    ]


def describe_held_out(records: Sequence[RunRecord]) -> list[str]:
    """Return a line for each stage and other held-out images or captions than of the first run that has the stage.

    It holds for the figures without a protocol, too, which stand side by side in one row.
    """
    groups: dict[str, dict[_Data, list[int]]] = {}
    for number, record in enumerate(records):
        for name, measure in record.measures.items():
            protocol = record.protocols.get(measure.protocol, {})
            if data := tuple((key, protocol[key]) for key in _DATA if key in protocol):
                runs = groups.setdefault(name.partition("/")[0], {}).setdefault(data, [])
                runs += [] if number in runs else [number]
    return [
        f"{stage}: {_other_data((first, _names(runs_of[first], records)), (other, _names(runs_of[other], records)))}"
        for stage, runs_of in groups.items()
        for first, *others in [list(runs_of)]
        for other in others
    ]


def _other_data(one: tuple[_Data, str], other: tuple[_Data, str]) -> str:
    """Return what is said of two validations, with the names of their runs, that were not of the same data."""
    (before, first), (now, second) = one, other
    data = [dict(before), dict(now)]
    if any(SPLIT in side for side in data):
        return f"whether what {second} and {first} found in validation can be compared is not known: {_UNKNOWN}"
    same_images = data[0].get(VALIDATED) == data[1].get(VALIDATED)
    what, by = ("captions", "sources") if same_images else ("held-out images", "split, sources, captions")
    return (
        f"what {second} found in validation is of other {what} than in {first}: none of these figures can be compared: "
        f"validate on the same ({by})"
    )


def _names(runs: Sequence[int], records: Sequence[RunRecord]) -> str:
    return ", ".join(records[number].run for number in runs)


def _difference(one: ProtocolGroup, other: ProtocolGroup, records: Sequence[RunRecord]) -> str:
    if not one.digest or not other.digest:
        return NOT_RECORDED
    sides = [_protocol(group, records) for group in (one, other)]
    found = protocol_differences(*sides)
    said = [_UNKNOWN] if {SPLIT, VALIDATED} <= found.keys() else []
    left = {key: values for key, values in found.items() if not said or all(key in side for side in sides)}
    said += [f"{_WORDS.get(key, key)} {_shown(new)}, not {_shown(old)}" for key, (old, new) in left.items()]
    return "; ".join(said)


def _protocol(group: ProtocolGroup, records: Sequence[RunRecord]) -> Protocol:
    return records[group.runs[0]].protocols.get(group.digest, {})


def _shown(value: str) -> str:
    return one_line(value, _LONGEST) or "none"
