"""Inspect artifacts, one after the other."""

from collections.abc import Mapping
from typing import Any

from pipeline.inspection.findings import Findings
from pipeline.inspection.target import Target
from stages.contract.documents import Manifest
from stages.contract.stage import StageSummary
from stages.storage.artifact import Artifact

TRAINED = {
    "train_clip", "train_autoencoder", "train_decoder", "train_upsampler", "train_second_upsampler", "train_prior",
}  # fmt: skip
LOSSES = ("failed_", "removed_", "duplicate_")


def inspect(target: Target, *, max_shards: int) -> list[Findings]:
    """Return what is found in each artifact; of large ones only so many shards are read.

    Raises:
        StageError: a file of an artifact is missing or broken.
    """
    return [_inspect_one(target, artifact, max_shards) for artifact in target.artifacts]


def _inspect_one(target: Target, artifact: Artifact, max_shards: int) -> Findings:
    units = artifact.done_units()
    state = "done" if artifact.is_complete else "partial" if units else "new"
    findings = Findings(artifact.stage, artifact.fingerprint, artifact.uri, state)
    summary = Manifest.of(artifact).summary if artifact.is_complete else _so_far(units)
    _show_summary(findings, summary)
    shards = target.input_of(artifact, "download_shards")
    if artifact.stage == "download_shards":
        from pipeline.inspection.shards import inspect_shards

        inspect_shards(artifact, findings, max_shards=max_shards)
    elif artifact.stage == "embed_clip":
        from pipeline.inspection.embeddings import inspect_embeddings

        inspect_embeddings(artifact, shards, findings, max_shards=max_shards)
    elif artifact.stage == "filter_samples":
        from pipeline.inspection.embeddings import inspect_removed

        inspect_removed(artifact, shards, findings, max_shards=max_shards)
    elif state == "done":
        _inspect_model(target, artifact, shards, findings, max_shards)
    return findings


def _inspect_model(
    target: Target, artifact: Artifact, shards: Artifact | None, findings: Findings, max_shards: int
) -> None:
    from pipeline.inspection.trained import inspect_files, inspect_prior, inspect_tracked

    if artifact.stage == "fit_gaussians":
        from pipeline.inspection.embeddings import inspect_gaussians

        embeddings, kept = (target.input_of(artifact, name) for name in ("embed_clip", "filter_samples"))
        inspect_gaussians(artifact, embeddings, kept, shards, findings, max_shards=max_shards)
    if artifact.stage == "train_prior":
        inspect_prior(artifact, findings)
    if artifact.stage in TRAINED:
        inspect_tracked(artifact, target, findings)
    inspect_files(artifact, findings)


def _so_far(units: Mapping[str, Mapping[str, Any]]) -> StageSummary:
    """Add up the records of what is done, where no summary is written yet."""
    counts: dict[str, int] = {}
    for record in units.values():
        for name, value in record.items():
            causes = value.items() if name == "failures" else ((name, value),) if isinstance(value, int) else ()
            for cause, count in causes:
                key = f"failed_{cause}" if name == "failures" else cause
                counts[key] = counts.get(key, 0) + count
    return StageSummary(items=len(units), item_name="finished units", counts=counts)


def _show_summary(findings: Findings, summary: StageSummary) -> None:
    counts = summary.counts
    lost = {name: count for name, count in counts.items() if name.startswith(LOSSES)}
    kept = {name: count for name, count in counts.items() if name not in lost}
    findings.add_figures("counts", {summary.item_name: summary.items, **kept})
    total = sum(lost.values())
    rows = [
        (name, count, f"{count / total:.1%}")
        for name, count in sorted(lost.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    findings.add_table("losses by cause", ("cause", "count", "fraction of losses"), rows)
    findings.add_figures("figures", {name: f"{value:.6g}" for name, value in summary.metrics.items()})
