"""What ``corgi inspect`` finds of a trained decoder: its buckets, and the held-out images of the largest loss."""

from stages.contract.findings import Findings, InspectionContext
from stages.formats.buckets import BucketsRecord
from stages.formats.sample_sheets import add_worst
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add how many images each bucket had, and the samples that fit least."""
    if artifact.exists(BucketsRecord.file):
        _add_buckets(findings, BucketsRecord.of(artifact))
    if artifact.exists(WorstSamples.file):
        add_worst(findings, WorstSamples.of(artifact), context, "held-out images of the largest loss")


def _add_buckets(findings: Findings, record: BucketsRecord) -> None:
    total = max(sum(record.images.values()), 1)
    rows = [(size, count, f"{count / total:.2%}") for size, count in record.images.items()]
    findings.add_table("images that are trained on by bucket", ("width x height", "images", "fraction"), rows)
