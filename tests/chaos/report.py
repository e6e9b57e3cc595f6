"""What the trials came to: a row for each fault, as a table and as JSON."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.trial import Outcome

_COLUMNS = (
    "times",
    "trials",
    "finished",
    "seconds lost",
    "redone",
    "destroyed",
    "differing",
    "leftovers",
    "holds",
)


def rows(outcomes: Sequence[Outcome], not_here: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each fault; seconds lost are those of one injection."""
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    found: list[dict[str, Any]] = []
    for fault, own in by_fault.items():
        times = sum(one.injections for one in own)
        found.append({
            "fault": fault, "times": times, "trials": len(own), "finished": sum(one.finished for one in own),
            "seconds lost": round(sum(one.seconds_lost for one in own) / max(1, times), 1),
            "redone": sum(one.redone for one in own), "destroyed": sum(one.destroyed for one in own),
            "differing": sum(one.differing for one in own),
            "leftovers": sum(len(one.leftovers) for one in own),
            "holds": all(one.holds for one in own),
        })  # fmt: skip
    return found + [{"fault": fault, "not tried here": reason} for fault, reason in not_here.items()]


def document(outcomes: Sequence[Outcome], not_here: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return all that was found, as JSON."""
    return {
        "seed": seed, "injections": sum(one.injections for one in outcomes), "faults": rows(outcomes, not_here),
        "trials": [one.to_json() for one in outcomes],
    }  # fmt: skip


def show(console: Console, outcomes: Sequence[Outcome], not_here: Mapping[str, str], title: str) -> None:
    """Print the table, and what did not hold."""
    table = Table(title=title)
    table.add_column("fault")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in rows(outcomes, not_here):
        if "not tried here" in row:
            table.add_row(row["fault"], f"not tried here: {row['not tried here']}")
        else:
            table.add_row(row["fault"], *(str(row[name]) for name in _COLUMNS[:-1]), "yes" if row["holds"] else "NO")
    console.print(table)
    for outcome in outcomes:
        if not outcome.holds:
            console.print(f"{outcome.fault}: {'; '.join(outcome.what)}", markup=False, highlight=False)
            missing = [] if outcome.finished else ["it did not finish"]
            in_vain = outcome.redone - outcome.destroyed
            missing += [f"{in_vain} finished units were made again"] if in_vain > 0 else []
            for line in [*missing, *outcome.complaints, *outcome.leftovers]:
                console.print(f"    {line}", markup=False, highlight=False)
