"""What ``corgi inspect`` finds of a prior: its evaluation on held-out pairs."""

from stages.contract.findings import Findings, InspectionContext
from stages.formats.sample_sheets import add_worst
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact

VALIDATION = "validation.json"
_AT_STEP = "validation_"


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add the last evaluation on held-out pairs: by sampling steps, the reference, and the pairs it fits least."""
    if not (artifact.is_complete and artifact.exists(VALIDATION)):
        return
    evaluated = artifact.read_json(VALIDATION)
    by_steps, reference = evaluated["by_steps"], evaluated.get("reference", {})
    columns = sorted(by_steps, key=_number)  # the file has them in the order of their letters
    measures = list(dict.fromkeys(name for report in by_steps.values() for name in report))
    rows = [
        (name, *(_round(by_steps[column].get(name)) for column in columns), _round(reference.get(name)))
        for name in measures
    ]
    findings.add_table("held-out pairs, by sampling steps", ("measure", *columns, "reference"), rows)
    history = {
        _number(name): evaluated[name]["by_steps"].get(columns[-1], {})  # one before may have sampled in other steps
        for name in evaluated
        if name.startswith(_AT_STEP)
    }
    findings.add_table(
        f"held-out pairs, by training step ({columns[-1]})",
        ("step", *measures),
        [(step, *(_round(report.get(name)) for name in measures)) for step, report in sorted(history.items())],
    )
    _add_worst(artifact, findings, context)


def _add_worst(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    if artifact.exists(WorstSamples.file):
        title = "held-out pairs of the largest loss (1 - cosine of sampled and true embedding)"
        add_worst(findings, WorstSamples.of(artifact), context, title)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
