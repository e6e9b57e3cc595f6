"""The command line. Heavy imports are inside the commands, so that ``--help`` answers at once.

Exit codes: 0 done, 1 `doctor` found an error, 2 bad usage or config, 3 a stage failed, 4 another driver took over, 130
interrupted (Ctrl-C), 143 ended by SIGTERM, 129 by SIGHUP (a closed terminal).
"""

import json
import sys
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pipeline.dashboard.command import dashboard
from pipeline.evaluation.command import evaluate
from pipeline.export.command import export
from pipeline.gc.command import gc
from pipeline.generation.command import generate
from pipeline.html_report.command import report
from pipeline.initialize.command import init
from pipeline.logs.command import logs
from pipeline.options import StoreOption
from pipeline.outbox.command import track
from pipeline.serve.command import serve
from pipeline.terminal import echo, indented, protect_standard_streams
from pipeline.verification.command import verify

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.experiment import Experiment
    from pipeline.record import RunRecord
    from pipeline.store import Store as RunStore


class _Commands(TyperGroup):
    """All commands: Ctrl-C, SIGTERM and SIGHUP end any of them with the same words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        from pipeline.ends import heeding_signals

        with heeding_signals():
            return super().invoke(ctx)


app = typer.Typer(
    name="corgi",
    cls=_Commands,
    help="Turn a pile of images, few or none of them captioned, into a text-to-image model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"

Config = Annotated[Path, typer.Argument(help="the experiment: a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="override config keys")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


@app.command()
def validate(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check an experiment without reading its data: keys, types, and whether the files that it names are there."""
    from pipeline.config.loading import load_config
    from pipeline.config.paths import require_files

    loaded = load_config(config, overrides or ())
    require_files(loaded, str(config))
    stages = list(loaded.stages())
    if as_json:
        _print_json({"status": "valid", "name": loaded.name, "stages": stages, "remarks": loaded.remarks})
    else:
        echo("\n".join([f"{config}: valid; stages: {', '.join(stages)}", *loaded.remarks]))


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="also weights, memory per GPU by ZeRO stage, epochs")] = False,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="with --sizes: GPUs that ZeRO splits over")] = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: each stage done, partial or new, and why; what it asks of the machines."""
    from pipeline.demands import demands_of
    from pipeline.planned_buckets import planned_buckets
    from pipeline.report import plan_document, plan_table
    from pipeline.run import check_sections

    experiment = _open(config, overrides)
    check_sections(experiment)
    with redirect_stdout(sys.stderr):  # where Ray prints warnings
        demands = demands_of(experiment.plan, experiment.config.cluster)
    found, buckets = None, planned_buckets(experiment.plan, experiment.store)
    if sizes:
        from pipeline.sizing.sizes import sizes_document, sizes_table, stage_sizes

        found = stage_sizes(experiment.config, experiment.plan, experiment.store, gpus)
    if as_json:
        document = plan_document(experiment.plan, demands, buckets)
        _print_json(document if found is None else document | {"sizes": sizes_document(found)})
        return
    _console(stderr=False).print(plan_table(experiment.plan, demands, buckets))
    echo("\n".join([*([f"machines: {demands.machines}"] if demands.stages else []), *experiment.config.remarks]))
    if found is not None:
        _console(stderr=False).print(sizes_table(found))


@app.command()
def run(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run an experiment; what is done already is kept and used."""
    record = _run(config, overrides)
    _report(record, as_json)
    _exit_by(record)


@app.command()
def quickstart(overrides: Overrides = None, as_json: Json = False) -> None:
    """Make a text-to-image model of rendered scenes on this machine, in minutes."""
    from pipeline.quickstart import accuracy_table, quickstart_document

    record = _run(QUICKSTART, overrides)
    if as_json:
        _print_json(quickstart_document(record))
    else:
        if record.status == "done":
            _show(accuracy_table(record))
        _report(record, as_json=False)
    _exit_by(record)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="the sweep: a YAML file that names an experiment and what to vary")],
    overrides: Overrides = None,
    *,
    groups: Annotated[list[str] | None, typer.Option("--group", help="only this group; may be repeated")] = None,
    base: Annotated[Path | None, typer.Option("--base", help="vary this experiment instead of the sweep's own")] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="list the runs and how much of each is left")] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment in many variants, and show one table of what came out."""
    from pipeline.sweep.command import do_sweep, sweep_plan
    from pipeline.sweep.config import load_sweep

    loaded = load_sweep(config, groups or (), base)
    if only_plan:
        rows = [run.to_json() | {"stages_left": left} for run, left in sweep_plan(loaded, overrides or ())]
        _show({"runs": rows} if as_json else "\n".join("  ".join(map(str, row.values())) for row in rows))
        return
    with redirect_stdout(sys.stderr):
        outcome = do_sweep(loaded, overrides or (), _console(stderr=True))
    _show(outcome.document if as_json else outcome.table)
    echo(f"table and plots: {outcome.folder}", err=True)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def submit(
    config: Config,
    address: Annotated[str, typer.Option("--address", help="the cluster's job server, such as http://head:8265")],
    overrides: Overrides = None,
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job to its end")] = True,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="use a cluster that asks for no token")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment as a job on a Ray cluster; the current folder goes along, without secrets, data and caches."""
    from cluster.jobs import follow_job
    from pipeline.submission import submit_experiment
    from stages.contract.secrets import redact

    job = submit_experiment(
        config,
        overrides or (),
        address,
        echo=lambda text: echo(redact(text), err=True),
        allow_unauthenticated=allow_unauthenticated,
    )
    echo(redact(f"job {job} submitted to {address}"), err=True)
    status = follow_job(address, job, echo=lambda text: echo(text, err=True, nl=False)) if wait else "SUBMITTED"
    if as_json:
        _print_json({"job": job, "status": status})
    else:
        echo(f"job {job}: {status}")
    if status not in {"SUBMITTED", "SUCCEEDED"}:
        raise typer.Exit(3)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="an experiment, to check its store and cluster too")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Look this machine over, without starting anything: what is wrong, and what to do; exit code 1 for an error."""
    from pipeline.doctor.command import doctor_document, doctor_table, examine, worst

    findings = examine(config, overrides or ())
    _show(doctor_document(findings) if as_json else doctor_table(findings))
    if worst(findings) == "error":
        raise typer.Exit(1)


@app.command()
def status(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="a run's id or its beginning")] = None,
    store: StoreOption = "workspace",
    as_json: Json = False,
) -> None:
    """Show a run, or all runs of the store."""
    from pipeline.heartbeat import life_of
    from pipeline.report import run_view, runs_table, status_document

    found = _store(store)
    if run_id is None:
        records = list(found.runs())
        lives = [life_of(record, found) for record in records]
        pairs = zip(records, lives, strict=True)
        _show({"runs": [status_document(*one) for one in pairs]} if as_json else runs_table(records, lives))
        return
    record = found.find_run(run_id)
    life = life_of(record, found)
    _show(status_document(record, life) if as_json else run_view(record, life))


app.command()(init)
app.command()(logs)
app.command()(generate)
app.command()(evaluate)
app.command()(export)
app.command()(serve)
app.command()(track)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="runs, by id or its beginning")],
    everything: Annotated[bool, typer.Option("--all", help="every metric that a stage reported")] = False,
    store: StoreOption = "workspace",
    as_json: Json = False,
) -> None:
    """Show several runs side by side: how good their images, how large their models, how fast they are."""
    from pipeline.comparison import comparison_document, comparison_table, metrics_table

    found = _store(store)
    records = [found.find_run(name) for name in runs]
    shown = comparison_document if as_json else comparison_table
    _show(metrics_table(records) if everything and not as_json else shown(records, found))


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(metavar="RUN|ARTIFACT", help="a run's id or its beginning, or a folder")],
    shards: Annotated[int, typer.Option("--shards", min=1, help="most shards of each artifact to read")] = 16,
    store: StoreOption = "workspace",
    as_json: Json = False,
) -> None:
    """Print what stages produced: counts, losses, captions, sizes, Gaussians, evaluations; images: corgi report."""
    from pipeline.inspection.inspect import find_target
    from pipeline.inspection.inspect import inspect as inspect_target
    from pipeline.inspection.show import print_findings

    chosen = find_target(target, store)
    found = inspect_target(chosen, max_shards=shards)
    if as_json:
        _print_json({"title": chosen.title, "artifacts": [one.to_json() for one in found]})
    else:
        print_findings(_console(stderr=False), found)


app.command()(report)
app.command()(verify)
app.command()(gc)


app.command()(dashboard)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    from stages.contract.secrets import print_redacted_traceback, redact_logs, remember_environment

    remember_environment()
    redact_logs()
    sys.excepthook = print_redacted_traceback
    protect_standard_streams()
    if any(option.startswith("error") for option in sys.warnoptions):  # the libraries below us warn, and would end
        warnings.simplefilter("default")
    try:
        app()
    except Exception as error:  # noqa: BLE001  only faults of our own keep their traceback
        code = _report_error(error)
    else:
        code = 0
    sys.stdout.flush()
    sys.exit(code)


def _report_error(error: Exception) -> int:
    """Print a known error as a paragraph, any other with its traceback, and return the exit code."""
    from pipeline.errors import PipelineError, exit_code_of, full_disk
    from stages.contract.secrets import redact

    if (full := full_disk(error)) is not None:
        error = PipelineError(full)
    if (code := exit_code_of(error)) is None:
        echo(indented(redact("".join(traceback.format_exception(error)).rstrip())), err=True)
        return 1
    message = redact(str(error))
    echo(indented(f"corgi: {message}"), err=True)
    if "--json" in sys.argv:
        _print_json({"status": "error", "error": message})
    return code


def _open(config: Path, overrides: list[str] | None) -> "Experiment":
    from pipeline.config.loading import load_config
    from pipeline.experiment import Experiment

    return Experiment.open(load_config(config, overrides or ()), str(config))


def _run(config: Path, overrides: list[str] | None) -> "RunRecord":
    from pipeline.run import run_experiment, send_left_over

    experiment = _open(config, overrides)
    finished = experiment.finished_record()
    if finished is not None:
        echo(f"run {finished.run}: everything is done; nothing to run", err=True)
        send_left_over(experiment, finished.run, lambda text: echo(text, err=True))
        return finished
    with redirect_stdout(sys.stderr):  # where Ray prints warnings to standard output, they would break the JSON
        return run_experiment(experiment, _console(stderr=True))


def _report(record: "RunRecord", as_json: bool) -> None:
    from pipeline.console import plain
    from pipeline.end_report import end_lines
    from pipeline.report import print_failures, print_skips, stage_table

    if as_json:
        _print_json(record.document())
        return
    console = _console(stderr=False)
    console.print(stage_table(record))
    print_skips(console, record)
    if record.status == "done":
        for line in end_lines(record):
            console.print(plain(line), soft_wrap=True)
    if record.status == "failed":
        print_failures(_console(stderr=True), record)


def _exit_by(record: "RunRecord") -> None:
    """End with 2 where stages failed only because of what they were given, with 3 where one failed otherwise."""
    failed = [stage for stage in record.stages if stage.state == "failed"]
    if failed:
        raise typer.Exit(2 if all(stage.bad_input for stage in failed) else 3)


def _store(uri: str) -> "RunStore":
    from pipeline.store import Store as RunStore

    found = RunStore(uri)
    found.check_format()
    return found


def _console(*, stderr: bool) -> "Console":
    from pipeline.console import Terminal

    return Terminal(stderr=stderr)


def _show(content: Any) -> None:
    if isinstance(content, dict):
        _print_json(content)
    else:
        _console(stderr=False).print(content)


def _print_json(document: Any) -> None:
    from stages.contract.secrets import redact_tree

    echo(json.dumps(redact_tree(document), indent=1, default=str))
