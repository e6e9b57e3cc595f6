"""From a finished run's configuration to a run that generates and evaluates with its models."""

from collections.abc import Sequence

from rich.console import Console

from pipeline.config.loading import load_resolved
from pipeline.config.schema import RunConfig
from pipeline.console import PlainTable
from pipeline.errors import UsageError
from pipeline.evaluation.plan import AGAIN, plan_evaluation
from pipeline.experiment import Experiment
from pipeline.plan import Plan
from pipeline.record import RunRecord
from pipeline.run import run_experiment
from pipeline.store import Store
from stages.contract.texts import by_number, one_line

SUFFIX = "-evaluated"
ALLOWED = (*AGAIN, "cluster", "tracking")


def evaluation_of(store: Store, record: RunRecord, overrides: Sequence[str]) -> RunConfig:
    """Return the run's configuration under another name, with overrides of what is done anew."""
    for word in overrides:
        key = word.partition("=")[0]
        if key.partition(".")[0] not in ALLOWED:
            raise UsageError(
                f"{one_line(key, 200)}: an evaluation trains nothing: allowed are keys of {', '.join(ALLOWED)}: change "
                "the experiment and run it with `corgi run`"
            )
    if record.config.get("evaluate") is None and not any(word.startswith("evaluate") for word in overrides):
        raise UsageError(f"run {record.run}: its experiment has no section evaluate: set one, such as evaluate={{}}")
    return _load(store, record, overrides)


def _load(store: Store, record: RunRecord, overrides: Sequence[str]) -> RunConfig:
    tree = {**record.config, "name": f"{record.name.removesuffix(SUFFIX)}{SUFFIX}", "store": store.uri}
    return load_resolved(tree, overrides, f"run {record.run}")


def evaluate_again(store: Store, record: RunRecord, overrides: Sequence[str], console: Console) -> RunRecord:
    """Generate and evaluate what is not in the store yet, and return the record of the run that does it.

    Raises:
        UsageError: a key that is not allowed, or a model of the run that is not in the store any more.
    """
    config = evaluation_of(store, record, overrides)
    recorded = _load(store, record, ())

    def plan(config: RunConfig, found: Store) -> Plan:
        return plan_evaluation(config, recorded, record, found)

    experiment = Experiment.open(config, f"corgi evaluate {record.run}", plan)
    return experiment.finished_record() or run_experiment(experiment, console)


def figures_table(record: RunRecord) -> PlainTable:
    """Return the figures of the evaluation with their intervals."""
    table = PlainTable(title=f"evaluation {record.run}")
    for heading, justify in (("figure", "left"), ("value", "right"), ("95 %", "right"), ("n", "right")):
        table.heading(heading, justify=justify)
    for name in sorted(record.figures("evaluate/"), key=by_number):
        measure = record.measures.get(f"evaluate/{name}")
        interval = "" if measure is None else measure.interval("{:.4g}".format)
        count = "" if measure is None else f"{measure.n:,}"
        table.row(name, f"{record.metrics[f'evaluate/{name}']:.4g}", interval, count)
    return table
