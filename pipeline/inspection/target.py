"""What is to be inspected: a run with all its artifacts, or one artifact; and what an artifact was made from."""

from dataclasses import dataclass
from pathlib import Path

import fsspec

from pipeline.config.schema import STAGES
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.storage.artifact import COMPLETE, MANIFEST, UNITS, Artifact

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
        if artifact.stage == stage:
            return artifact
        for source, fingerprint in _inputs(artifact).items():
            found = self.input_of(self.store.artifact(source, fingerprint), stage)
            if found is not None:
                return found
        return None

    def tracked_run(self, artifact: Artifact) -> tuple[str, str] | None:
        """Return the tracking URI and the MLflow run of the stage that made the artifact; None: not known."""
        records = [self.record] if self.record else list(self.store.runs())
        for record in records:
            planned, tracked = record.plan.get(artifact.stage), record.mlflow
            if planned is None or tracked is None or planned.fingerprint != artifact.fingerprint:
                continue
            if artifact.stage in tracked.stages:
                return tracked.tracking_uri, tracked.stages[artifact.stage]
        return None


def find_target(name: str, store: str) -> Target:
    """Return the artifact at a path or URI, or else the run of this id or beginning of one."""
    artifact = _artifact_at(name)
    if artifact is not None:
        root = artifact.uri.rstrip("/").rsplit("/", FEWEST_PARTS)[0]
        return Target(f"{artifact.stage} {artifact.fingerprint}", Store(root), (artifact,))
    found = Store(store)
    found.check_format()
    record = found.find_run(name)
    plan = record.plan
    planned = [found.artifact(stage, plan[stage].fingerprint) for stage in STAGES if stage in plan]
    artifacts = tuple(artifact for artifact in planned if _has_content(artifact))
    return Target(f"run {record.run}: {record.status}", found, artifacts, record)


def _artifact_at(name: str) -> Artifact | None:
    """Return the artifact if the name is the address of a folder that holds one."""
    uri = name.rstrip("/") if "://" in name else str(Path(name).expanduser().resolve())
    fs, root = fsspec.core.url_to_fs(uri)
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
