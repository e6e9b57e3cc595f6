"""The tables of runs and plans, and why stages failed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group

from pipeline.captions import caption_fraction, format_captions, pseudo_weight
from pipeline.console import PlainTable, plain
from pipeline.demands import Demands
from pipeline.heartbeat import Life, StageProgress
from pipeline.plan import Plan
from pipeline.progress import USED
from pipeline.record import RunRecord, StageEntry
from pipeline.splits import format_split
from stages.contract.texts import one_line

if TYPE_CHECKING:
    from pipeline.planned_buckets import PlannedBuckets


_WHOLE = 10  # a rate below this shows two digits: none is "0/s"
_WORDS = ("stage", "state")
_NUMBERS = ("seconds", "start-up", "items", "rate", "data wait", "captions", "use")


def stage_table(record: RunRecord, life: Life | None = None) -> PlainTable:
    """Return the table of stages, seconds, items and rate; of a lost run, also what to do.

    A number or name that does not fit goes on in the next line of its cell; columns that would be empty are left out.
    """
    table = PlainTable(title=f"run {record.run}: {record.status if life is None else life.shown}")
    if life is not None and life.words:
        table.caption, table.caption_justify = plain(life.words), "left"
    rows = [_row(record, stage, life) for stage in record.stages]
    whole = []
    if record.overhead_seconds is not None and record.seconds is not None:
        scheduling = {"stage": "Ray, tracking, scheduling", "seconds": f"{record.overhead_seconds:.1f}"}
        whole = [scheduling, {"stage": "all", "seconds": f"{record.seconds:.1f}"}]
    shown = [*_WORDS, *(name for name in _NUMBERS if any(row.get(name) for row in [*rows, *whole]))]
    for name in shown:
        table.heading(name, justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.row(*(row[name] for name in shown))
    if whole:
        table.add_section()
    for row in whole:
        table.row(*(row.get(name, "") for name in shown))
    return table


def _used(record: RunRecord, stage: str, life: Life | None) -> Mapping[str, float]:
    """Return data wait and use of processors: what a stage that ended recorded, and a running one reported last."""
    entry = record.stage(stage)
    if life is not None and entry is not None and entry.state == "running":
        return life.progress[stage].used if stage in life.progress else {}
    return {name: record.metrics[f"{stage}/{name}"] for name in USED if f"{stage}/{name}" in record.metrics}


def format_use(used: Mapping[str, float]) -> str:
    """Return the use of processors and of a GPU's memory in words; "": nothing is known of it."""
    rates = {"CPU": used.get("cpu_utilisation"), "GPU": used.get("gpu_utilisation")}
    words = [f"{name} {rate:.0%}" for name, rate in rates.items() if rate is not None]
    memory = used.get("gpu_memory_gigabytes")
    return ", ".join([*words, *([] if memory is None else [f"{memory:.1f} GB"])])


def run_view(record: RunRecord, life: Life) -> Group:
    """Return the table of stages, and of a run that goes on the one of its workers."""
    tables = (stage_table(record, life), workers_table(record, life))
    return Group(*(one for one in tables if one is not None))


def workers_table(record: RunRecord, life: Life) -> PlainTable | None:
    """Return the table of the machines on which running stages compute; None: nothing is known of any."""
    running = {stage.name for stage in record.stages if stage.state == "running"}
    workers = {name: found for name, found in life.workers.items() if name in running}
    if not workers:
        return None
    table = PlainTable(title="workers")
    for heading in ("stage", "machine", "workers", "at"):
        table.heading(heading, justify="right" if heading == "workers" else "left")
    for stage, found in workers.items():
        for one in found.machines:
            more = ", …" if len(one.items) < one.workers and one.items else ""
            table.row(stage, one.machine, f"{one.workers:,}", ", ".join(one.items) + more)
        if found.further:
            table.row(stage, f"and {found.further:,} further machines", "", "")
    return table


def _row(record: RunRecord, stage: StageEntry, life: Life | None) -> dict[str, str]:
    """Return the cells of a stage by their headings; what is not known of it is empty."""
    planned, used = record.plan.get(stage.name), _used(record, stage.name, life)
    seconds, waited = (life or Life(record.status)).seconds_of(stage), used.get("data_wait_fraction")
    beside = f", beside {', '.join(stage.upstream)}" if stage.upstream else ""
    items = f"{stage.items:,} {stage.item_name}" if stage.items is not None else ""
    rate = "" if stage.rate is None else f"{stage.rate:{',.0f' if stage.rate >= _WHOLE else '.2g'}}/s"
    if life is not None and stage.state == "running" and stage.name in life.progress:  # which may outlive the stage
        items, rate = _progress(life.progress[stage.name])
    return {
        "stage": stage.name,
        "state": f"{stage.state}{beside}",
        "seconds": "" if seconds is None else f"{seconds:.1f}",
        "start-up": f"{stage.startup_seconds:.1f}" if stage.startup_seconds else "",
        "items": items,
        "rate": rate,
        "data wait": "" if waited is None else f"{waited:.1%}",
        "captions": "" if planned is None else format_captions(planned.identity),
        "use": format_use(used),
    }


def _progress(progress: StageProgress) -> tuple[str, str]:
    """Return how far a running stage is, and its rate with the time left."""
    done = one_line(f"{progress.done:,} of {progress.total:,} {progress.unit} {progress.note}".rstrip())
    if progress.per_second is None or progress.seconds_left is None:
        return done, ""
    return done, f"{progress.per_second:,.2f}/s, {progress.seconds_left:,.0f} s left"


def plan_table(plan: Plan, demands: Demands, buckets: "PlannedBuckets | None" = None) -> PlainTable:
    """Return the table of what a run would do."""
    table = PlainTable(title=f"plan of run {plan.run}")
    for heading in ("stage", "state", "fingerprint", "captions", "asks for", "why"):
        table.heading(heading)
    for stage in plan.stages.values():
        captions = format_captions(stage.identity)
        asked = demands.stages.get(stage.name, "")
        table.row(stage.name, stage.state, stage.fingerprint, captions, asked, stage.reason)
    lines = [] if plan.split is None else [f"images: {format_split(plan.split)}"]
    lines += [] if buckets is None else [buckets.describe()]
    if lines:
        table.caption, table.caption_justify = plain("\n".join(lines)), "left"
    return table


def plan_document(plan: Plan, demands: Demands, buckets: "PlannedBuckets | None" = None) -> dict[str, Any]:
    """Return the plan as JSON-ready data."""
    return {
        "run": plan.run,
        "machines": demands.machines,
        "split": None if plan.split is None else plan.split.model_dump(),
        "buckets": None if buckets is None else buckets.to_json(),
        "stages": [
            {
                "name": s.name,
                "state": s.state,
                "fingerprint": s.fingerprint,
                "reason": s.reason,
                "captions_fraction": caption_fraction(s.identity),
                "pseudo_captions_weight": pseudo_weight(s.identity),
                "asks_for": demands.stages.get(s.name, ""),
            }
            for s in plan.stages.values()
        ],
    }


def print_failures(console: Console, record: RunRecord) -> None:
    """Print what failed, why, what was not run for it, and where the log is."""
    for stage in record.stages:
        if stage.state == "failed":
            console.print()
            console.print(plain(f"{stage.name} failed", "bold red"))
            console.print(plain(stage.error))
            console.print(plain(f"log: {stage.log}"), soft_wrap=True)
        elif stage.state == "blocked":
            how = "was stopped" if stage.seconds else "was not run"
            console.print(plain(f"{stage.name} {how}: {stage.error}"))
    console.print("What was finished is kept; run the same command again to go on.", highlight=False)


def print_skips(console: Console, record: RunRecord) -> None:
    """Print what the stages skipped, with first examples."""
    for stage in record.stages:
        if skipped := stage.notes.get("skipped"):
            console.print(plain(f"{stage.name} skipped {skipped}"))


def runs_table(records: Sequence[RunRecord], lives: Sequence[Life]) -> PlainTable:
    """Return the table of all runs, the latest first."""
    table = PlainTable(title="runs")
    for heading in ("run", "status", "started (UTC)", "config"):
        table.heading(heading)
    for record, life in zip(records, lives, strict=True):
        table.row(record.run, life.shown, _when(record.started), record.config_path)
    return table


def _when(started: str) -> str:
    """Return a record's time in UTC to the second, or as it stands there where it is none."""
    try:
        return datetime.fromisoformat(started).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return started


def status_document(record: RunRecord, life: Life) -> dict[str, Any]:
    """Return the run as JSON-ready data, with its last sign of life where nobody has closed its record."""
    document = record.document() | {"status": life.status}
    running = {stage.name: life.seconds_of(stage) for stage in record.stages if stage.state == "running"}
    document["stages"] = [
        one | {"seconds": running[one["name"]]} if one["name"] in running else one for one in document["stages"]
    ]
    if record.status == "running":
        document["last_sign_of_life"] = None if life.last_sign is None else life.last_sign.isoformat()
        document["progress"] = {name: one.model_dump() for name, one in life.progress.items()}
        document["workers"] = {name: one.model_dump(mode="json") for name, one in life.workers.items()}
    return document
