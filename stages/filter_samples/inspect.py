"""What ``corgi inspect`` finds of a filter: samples that it removed, and why."""

from stages.contract.findings import Findings, InspectionContext, evenly
from stages.formats.filtered import read_removed
from stages.formats.sample_sheets import add_sheet
from stages.storage.artifact import Artifact

SHOWN = 24


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add some of the removed samples, with their images."""
    rows, samples = [], []
    for name in evenly(sorted(artifact.done_units()), context.max_shards):
        for row in read_removed(artifact, name):
            rows.append((row["key"], row["cause"], f"{row['value']:.4f}", row["duplicate_of"] or ""))
            samples.append((name, row["key"], f"{row['cause']} {row['value']:.3f} {row['duplicate_of'] or ''}"))
    findings.add_table("removed (some)", ("key", "cause", "value", "duplicate of"), evenly(rows, SHOWN))
    if (shards := context.input_of("download_shards")) is not None:
        add_sheet(findings, shards, evenly(samples, SHOWN), "removed")
