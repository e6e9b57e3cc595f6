"""Inspect artifacts, one after the other."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipeline.config.schema import is_trained
from pipeline.inspection.target import Target
from stages.contract.documents import Manifest
from stages.contract.findings import Findings, InspectionContext
from stages.contract.stage import StageSummary, optional_module
from stages.storage.artifact import Artifact

LOSSES = ("failed_", "removed_", "duplicate_")


def inspect(target: Target, *, max_shards: int) -> list[Findings]:
    """Return what is found in each artifact; of large ones only so many shards are read."""
    return [_inspect_one(target, artifact, max_shards) for artifact in target.artifacts]


def _inspect_one(target: Target, artifact: Artifact, max_shards: int) -> Findings:
    units = artifact.done_units()
    state = "done" if artifact.is_complete else "partial" if units else "new"
    findings = Findings(artifact.stage, artifact.fingerprint, artifact.uri, state)
    _add_summary(findings, Manifest.of(artifact).summary if artifact.is_complete else _so_far(units))
    if (own := optional_module(f"stages.{artifact.stage}", "inspect")) is not None:
        own.inspect(artifact, findings, InspectionContext(partial(target.input_of, artifact), max_shards))
    if artifact.is_complete:
        if is_trained(artifact.stage):
            _add_tracked_images(findings, target, artifact)
        _add_files(findings, artifact)
    return findings


def _add_files(findings: Findings, artifact: Artifact) -> None:
    """Add the images that lie in the artifact's folder: sheets, plots."""
    for name in artifact.glob("*.png"):
        stem = name.removesuffix(".png")
        with artifact.open(name) as file:
            findings.add_image(stem, stem.replace("_", " "), file.read())


def _add_tracked_images(findings: Findings, target: Target, artifact: Artifact) -> None:
    """Add the last of each kind of image that the stage sent to the dashboard, such as a decoder's grids."""
    found = target.tracked_run(artifact)
    if found is None:
        findings.notes.append("grids: no run of this store says that it made the artifact")
        return
    from pipeline.tracking import tracked_images

    for (name, step), png in tracked_images(*found).items():
        findings.add_image(f"{name}_{step}", f"{name.replace('_', ' ')}, step {step}", png)


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


def _add_summary(findings: Findings, summary: StageSummary) -> None:
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
