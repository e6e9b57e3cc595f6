"""The tables of runs and plans, and why stages failed."""

from collections.abc import Mapping, Sequence
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


def stage_table(record: RunRecord, life: Life | None = None) -> PlainTable:
    """Return the table of stages, seconds, items and rate; of a lost run, also what to do."""
    table = PlainTable(title=f"run {record.run}: {record.status if life is None else life.shown}")
    if life is not None and life.words:
        table.caption, table.caption_justify = plain(life.words), "left"
    table.heading("stage")
    table.heading("state")
    for heading in ("seconds", "start-up", "items", "rate", "data wait", "captions"):
        table.heading(heading, justify="right")
    of_stages = {stage.name: _used(record, stage.name, life) for stage in record.stages}
    is_shown = any(format_use(used) for used in of_stages.values())
    if is_shown:
        table.heading("use", justify="right")
    for stage in record.stages:
        used = of_stages[stage.name]
        waited = used.get("data_wait_fraction")
        planned = record.plan.get(stage.name)
        captions = "" if planned is None else format_captions(planned.identity)
        is_running = stage.state == "running"  # a sign of life may be older than the record
        progress = life.progress.get(stage.name) if life is not None and is_running else None
        row = _row(stage) if progress is None else (*_row(stage)[:4], *_progress(progress))
        use = (format_use(used),) if is_shown else ()
        table.row(*row, "" if waited is None else f"{waited:.1%}", captions, *use)
    if record.overhead_seconds is not None:
        table.add_section()
        table.row("Ray, tracking, scheduling", "", f"{record.overhead_seconds:.1f}")
        table.row("all", "", f"{record.seconds:.1f}")
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
        table.heading(heading, justify="right" if heading == "workers" else "left", overflow="fold")
    for stage, found in workers.items():
        for one in found.machines:
            more = ", …" if len(one.items) < one.workers and one.items else ""
            table.row(stage, one.machine, f"{one.workers:,}", ", ".join(one.items) + more)
        if found.further:
            table.row(stage, f"and {found.further:,} further machines", "", "")
    return table


def _row(stage: StageEntry) -> tuple[str, ...]:
    seconds, startup, items = stage.seconds, stage.startup_seconds, stage.items
    rate = f"{items / (seconds - startup):,.0f}/s" if items and seconds - startup > 0 else ""
    beside = f", beside {', '.join(stage.upstream)}" if stage.upstream else ""
    return (
        stage.name,
        f"{stage.state}{beside}",
        f"{seconds:.1f}" if seconds else "",
        f"{startup:.1f}" if startup else "",
        f"{items:,} {stage.item_name}" if items is not None else "",
        rate,
    )


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
        table.heading(heading, overflow="fold")
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
    for heading in ("run", "status", "started", "config"):
        table.heading(heading, overflow="fold")
    for record, life in zip(records, lives, strict=True):
        table.row(record.run, life.shown, record.started, record.config_path)
    return table


def status_document(record: RunRecord, life: Life) -> dict[str, Any]:
    """Return the run as JSON-ready data, with its last sign of life where nobody has closed its record."""
    document = record.document() | {"status": life.status}
    if record.status == "running":
        document["last_sign_of_life"] = None if life.last_sign is None else life.last_sign.isoformat()
        document["progress"] = {name: one.model_dump() for name, one in life.progress.items()}
        document["workers"] = {name: one.model_dump(mode="json") for name, one in life.workers.items()}
    return document
