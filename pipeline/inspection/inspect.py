"""Inspect a run with all its artifacts, or one artifact."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.config.schema import STAGES, is_trained
from pipeline.errors import UsageError
from pipeline.heartbeat import life_of
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.tracking_address import address_now, is_at_hand
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError
from stages.contract.findings import Findings, InspectionContext
from stages.contract.secrets import redact_addresses
from stages.contract.stage import StageSummary, optional_module
from stages.contract.texts import by_number
from stages.storage.artifact import COMPLETE, MANIFEST, UNITS, Artifact, unit_record
from stages.storage.filesystems import explaining, open_address, root_address

LOSSES = ("failed_", "removed_")
LOST_FIELDS = {"failures": "failed_", "removed": "removed_"}
"""The fields of units' records that count what was lost by cause, with what names begin with in a summary."""
LOST_SHOWN = 20
MODEL_UNIT = "model"  # of a stage that trains; its other units are checkpoints
FEWEST_PARTS = 3  # <store>/artifacts/<stage>/<fingerprint>


@dataclass(frozen=True)
class Target:
    """Artifacts to be inspected, in running order, and the run that they belong to, where it is known."""

    title: str
    store: Store
    artifacts: tuple[Artifact, ...]
    record: RunRecord | None = None

    def input_of(self, artifact: Artifact, stage: str) -> Artifact | None:
        """Return the artifact of a stage that this one was made from, directly or through others; None: unknown."""
        waiting, seen = [artifact], set[tuple[str, str]]()
        while waiting:
            one = waiting.pop()
            if one.stage == stage:
                return one
            if (one.stage, one.fingerprint) not in seen:  # manifests by another hand may lead in a circle
                seen.add((one.stage, one.fingerprint))
                waiting += [self.store.artifact(*source) for source in reversed(_inputs(one).items())]
        return None

    def tracked_run(self, artifact: Artifact) -> tuple[str, str] | None:
        """Return the tracking URI and the MLflow run of the stage that made the artifact; None: not known."""
        records = [self.record] if self.record else list(self.store.runs())
        for record in records:
            planned, tracked = record.plan.get(artifact.stage), record.mlflow
            if planned is None or tracked is None or planned.fingerprint != artifact.fingerprint:
                continue
            if artifact.stage in tracked.stages:
                return address_now(tracked.tracking_uri, self.store.local_root), tracked.stages[artifact.stage]
        return None


def find_target(name: str | None, store: str) -> Target:
    """Return the artifact at a path or URI, or else the run of this id or beginning of one; None: the latest run."""
    artifact = _artifact_at(name) if name else None  # the path "" would be the current folder
    if artifact is not None:
        root = artifact.uri.rstrip("/").rsplit("/", FEWEST_PARTS)[0]
        return Target(f"{artifact.stage} {artifact.fingerprint}", Store(root), (artifact,))
    found = Store(store)
    found.check_format()
    return target_of(found.find_run(name), found)


def target_of(record: RunRecord, found: Store) -> Target:
    """Return a run with all its artifacts that have content."""
    plan = record.plan
    planned = [found.artifact(stage, plan[stage].fingerprint) for stage in STAGES if stage in plan]
    artifacts = tuple(artifact for artifact in planned if _has_content(artifact))
    return Target(f"run {record.run}: {life_of(record, found).shown}", found, artifacts, record)


def _artifact_at(name: str) -> Artifact | None:
    """Return the artifact if the name is the address of a folder that holds one."""
    uri = root_address(name)
    with explaining(redact_addresses(uri)):
        fs, root = open_address(uri)
        if not fs.isdir(root):
            return None
    parts = uri.split("/")
    artifact = Artifact(uri, parts[-2] if len(parts) > 1 else "", parts[-1])
    if artifact.stage in STAGES and _has_content(artifact):
        return artifact
    if "://" in name or "/" in name:
        raise UsageError(
            f"{name}: is a folder, but no artifact: expected <store>/artifacts/<stage>/<fingerprint>: give the path of "
            "one (run.json and `corgi status RUN --json` list them), or a run's id"
        )
    return None


def _has_content(artifact: Artifact) -> bool:
    return artifact.exists(COMPLETE) or artifact.exists(MANIFEST) or bool(artifact.glob(f"{UNITS}/*.json"))


def _inputs(artifact: Artifact) -> dict[str, str]:
    if not artifact.exists(MANIFEST):
        return {}
    return dict(Manifest.of(artifact).inputs)


def inspect(target: Target, *, max_shards: int) -> list[Findings]:
    """Return what is found in each artifact; of large ones only so many shards are read."""
    return [_inspect_one(target, artifact, max_shards) for artifact in target.artifacts]


def _inspect_one(target: Target, artifact: Artifact, max_shards: int) -> Findings:
    units = artifact.done_units()
    _require_counts(artifact, units)
    state = "done" if artifact.is_complete else "partial" if units else "new"
    findings = Findings(artifact.stage, artifact.fingerprint, redact_addresses(artifact.uri), state)
    summary = Manifest.of(artifact).summary if artifact.is_complete else _so_far(artifact.stage, units)
    _add_summary(findings, summary, is_complete=artifact.is_complete)
    _add_lost(findings, units)
    if (own := optional_module(f"stages.{artifact.stage}", "inspect")) is not None:
        own.inspect(artifact, findings, InspectionContext(partial(target.input_of, artifact), max_shards))
    if artifact.is_complete:
        if is_trained(artifact.stage):
            _add_tracked_images(findings, target, artifact)
        _add_files(findings, artifact)
    return findings


def _require_counts(artifact: Artifact, units: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse records that do not count as those of all stages do."""
    for name, record in units.items():
        counted = [record.get(field, {}) for field in LOST_FIELDS]
        numbers = [count for causes in counted if isinstance(causes, Mapping) for count in causes.values()]
        are_counts = all(isinstance(number, int) for number in [record.get("step", 0), *numbers])
        if not are_counts or not all(isinstance(causes, Mapping) for causes in counted):
            raise ArtifactError(
                f"{artifact.stage}: {artifact.path(unit_record(name))}: found no counts under "
                f"{', '.join(LOST_FIELDS)}, or no number under step: expected those of a finished unit: delete "
                f"{artifact.uri} and run again"
            )


def _add_lost(findings: Findings, units: Mapping[str, Mapping[str, Any]]) -> None:
    """Add which units lost most samples, and of what; checkpoints repeat what was lost before them."""
    own = [name for name in units if name == MODEL_UNIT or not is_trained(findings.stage)]
    failures = {name: units[name]["failures"] for name in own if units[name].get("failures")}
    rows = [(name, cause, count) for name, causes in failures.items() for cause, count in causes.items()]
    rows.sort(key=lambda row: (-row[2], row[:2]))
    findings.add_table("lost samples by unit (most first)", ("unit", "cause", "count"), rows[:LOST_SHOWN])


def _add_files(findings: Findings, artifact: Artifact) -> None:
    """Add the images that lie in the artifact's folder: sheets, plots."""
    for name in artifact.glob("*.png"):
        stem = name.removesuffix(".png")
        with artifact.open(name) as file:
            findings.add_image(stem.replace("_", " "), file.read())


def _add_tracked_images(findings: Findings, target: Target, artifact: Artifact) -> None:
    """Add the last of each kind of image that the stage sent to the dashboard, such as a decoder's grids."""
    found = target.tracked_run(artifact)
    if found is None:
        findings.notes.append("grids: no run of this store says that it made the artifact")
        return
    if not is_at_hand(found[0], target.store.local_root):
        findings.notes.append(f"grids: set MLFLOW_TRACKING_URI to {found[0]} to see those that are kept there")
        return
    from pipeline.tracked_runs import tracked_images
    from pipeline.tracking_address import TrackingAway

    try:
        images = tracked_images(*found)
    except (UsageError, TrackingAway) as error:  # the address lacks what the environment is to hold; no server is there
        findings.notes.append(f"grids: {error}")
        return
    for (name, step), png in images.items():
        findings.add_image(f"{name.replace('_', ' ')}, step {step}", png)


def _so_far(stage: str, units: Mapping[str, Mapping[str, Any]]) -> StageSummary:
    """Add up the records of what is done, where no summary is written yet; of a training, the last one says it all."""
    records = list(units.values())
    if is_trained(stage):
        last = max(units, key=lambda name: (units[name].get("step", 0), name == MODEL_UNIT), default=None)
        records = [] if last is None else [units[last]]
    counts: dict[str, int] = {}
    for record in records:
        for name, value in record.items():
            prefix = LOST_FIELDS.get(name)
            causes = ((name, value),) if prefix is None else ((prefix + cause, one) for cause, one in value.items())
            for key, count in causes:
                if isinstance(count, int):
                    counts[key] = counts.get(key, 0) + count
    return StageSummary(items=len(units), item_name="finished units", counts=counts)


def _add_summary(findings: Findings, summary: StageSummary, *, is_complete: bool) -> None:
    counts = summary.counts
    lost = {name: count for name, count in counts.items() if name.startswith(LOSSES)}
    kept = {name: count for name, count in counts.items() if name not in lost}
    findings.add_figures("counts", {summary.item_name: summary.items, **kept})
    total = _rows(findings.stage, summary, sum(lost.values()), is_complete=is_complete)
    rows = [(name, count) for name, count in sorted(lost.items(), key=lambda pair: (-pair[1], pair[0]))]
    if total:
        fractions = [(*row, f"{row[1] / total:.2%}") for row in rows]
        findings.add_table("losses by cause", ("cause", "count", "fraction of rows"), fractions)
    else:
        findings.add_table("losses by cause", ("cause", "count"), rows)
    figures = {name: f"{summary.metrics[name]:.6g}" for name in sorted(summary.metrics, key=by_number)}
    findings.add_figures("figures", figures)


def _rows(stage: str, summary: StageSummary, lost: int, *, is_complete: bool) -> int | None:
    """Return of how many rows some were lost; None: not known, as where a training counts samples again and again."""
    counts = summary.counts
    if is_trained(stage):
        return None
    if stage == "download_shards":  # whose rows are all entries; those of other stages' units are what is left
        return counts.get("rows")
    if is_complete:
        return summary.items + (0 if stage == "filter_samples" else lost)  # whose items hold what it removed
    left = counts.get("rows", counts.get("images"))
    return None if left is None else left + lost
