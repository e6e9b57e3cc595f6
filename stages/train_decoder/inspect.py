"""What ``corgi inspect`` finds of a trained decoder: its buckets, and the held-out images of the largest loss."""

from stages.contract.findings import Findings, InspectionContext
from stages.formats.buckets import BucketsRecord
from stages.formats.sample_sheets import add_sheet
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact

SHOWN = 12


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add how many images each bucket had, and the samples that fit least."""
    if artifact.exists(BucketsRecord.file):
        _add_buckets(findings, BucketsRecord.of(artifact))
    if artifact.exists(WorstSamples.file):
        _add_worst(findings, WorstSamples.of(artifact), context)


def _add_buckets(findings: Findings, record: BucketsRecord) -> None:
    total = max(sum(record.images.values()), 1)
    rows = [(size, count, f"{count / total:.2%}") for size, count in record.images.items()]
    findings.add_table("images that are trained on by bucket", ("width x height", "images", "fraction"), rows)


def _add_worst(findings: Findings, worst: WorstSamples, context: InspectionContext) -> None:
    shown = worst.samples[:SHOWN]
    title = f"held-out images of the largest loss, of {worst.validated}, after step {worst.step}"
    findings.add_table(title, ("shard", "key", "loss"), [(one.shard, one.key, f"{one.loss:.4g}") for one in shown])
    shards = context.input_of("download_shards")
    if shards is not None:
        add_sheet(findings, shards, [(one.shard, one.key, f"loss {one.loss:.4g}") for one in shown], title)
