"""What the dashboard reads: runs of one store by their ids, their artifacts, and what MLflow holds of them."""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from pipeline import tracked_runs
from pipeline.errors import PipelineError
from pipeline.inspection.inspect import Target, inspect
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.tracking_address import address_now, is_at_hand, recorded_address
from stages.contract.findings import Findings, Image, Table
from stages.contract.parsing import shown
from stages.contract.texts import printable
from stages.formats.filtered import FilteredEmbeddings, filter_inputs
from stages.storage.artifact import Artifact

_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
MOST_SHARDS: Final = 16
"""Of an artifact that are read to say what is in it."""


class NotThere(PipelineError):
    """What a page asks for is not in the store."""


@dataclass(frozen=True)
class Reader:
    """A store, and the address at which the dashboard itself shows MLflow."""

    store: Store
    tracking_uri: str | None = None

    def record(self, run: str) -> RunRecord:
        """Return a run's record; NotThere: there is none."""
        found = self.store.read_run(run) if _RUN.fullmatch(run) else None
        if found is None:
            raise NotThere(f"run {shown(run)}: is not in this store")
        return found

    def artifact(self, record: RunRecord, stage: str) -> Artifact:
        """Return what a stage of a run made, whether it is complete or not; NotThere: the run has no such stage."""
        if stage not in record.plan:
            raise NotThere(f"run {record.run}: has no stage {shown(stage)}")
        return self.store.artifact(stage, record.plan[stage].fingerprint)

    def embeddings(self, record: RunRecord) -> Artifact:
        """Return the embeddings of a run, of the samples that its filter kept if it has one."""
        names = [name for name in record.plan if name in ("embed_clip", "filter_samples")]
        if "embed_clip" not in names:
            raise NotThere(f"run {record.run}: has no stage embed_clip")
        artifacts = {name: self.artifact(record, name) for name in names}
        if "filter_samples" in artifacts and not artifacts["filter_samples"].is_complete:
            raise NotThere(f"run {record.run}: filter_samples is not finished, so which samples it keeps is not known")
        return filter_inputs(artifacts)["embed_clip"]

    def findings(self, run: str, stage: str) -> Findings:
        """Return what `corgi inspect` finds of what a stage made."""
        record = self.record(run)
        artifact = self.artifact(record, stage)
        return inspect(Target(run, self.store, (artifact,), record), max_shards=MOST_SHARDS)[0]

    def tracked(self, record: RunRecord, stage: str) -> tuple[str, str] | None:
        """Return tracking address and MLflow's run of a stage; None: there is none that may be asked."""
        known = record.mlflow
        if known is None or stage not in known.stages:
            return None
        address = address_now(known.tracking_uri, self.store.local_root)
        own = self.tracking_uri is not None and recorded_address(self.tracking_uri) == recorded_address(address)
        if not (own or is_at_hand(address, self.store.local_root)):
            return None
        return address, known.stages[stage]

    def curve_names(self, run: str) -> dict[str, list[str]]:
        """Return the names of the numbers that MLflow holds, by stage."""
        record = self.record(run)
        found = {stage: self.tracked(record, stage) for stage in record.plan}
        return {stage: tracked_runs.metric_names(*known) for stage, known in found.items() if known is not None}

    def curve(self, run: str, stage: str, name: str) -> list[tuple[int, float, int]]:
        """Return step, value and time in milliseconds of a number of a stage."""
        known = self.tracked(self.record(run), stage)
        points = [] if known is None else tracked_runs.metric_history(*known, name)
        return [(point.step, point.value, point.time) for point in points]

    def image_steps(self, run: str) -> dict[str, dict[str, list[int]]]:
        """Return the steps at which images were logged while the stages trained, by stage and name."""
        record = self.record(run)
        known = {stage: self.tracked(record, stage) for stage in record.plan}
        found = {stage: tracked_runs.image_steps(*one) for stage, one in known.items() if one is not None}
        return {
            stage: {name: list(steps) for name, steps in images.items()} for stage, images in found.items() if images
        }

    def image(self, run: str, stage: str, name: str, step: int) -> bytes:
        """Return an image that a stage logged, as PNG; NotThere: there is none."""
        known = self.tracked(self.record(run), stage)
        paths = {} if known is None else tracked_runs.image_steps(*known)
        path = paths.get(name, {}).get(step)
        if known is None or path is None:
            raise NotThere(f"run {shown(run)}: has no image {shown(name)} of step {step}")
        return tracked_runs.read_image(*known, path)


def version_of(artifact: Artifact) -> str:
    """Return what changes whenever a unit of an artifact, or of the filter before it, is made, or made again.

    What was read before is kept by it: an artifact changes under the same fingerprint where damage is made again.
    """
    kept = artifact.kept.version() if isinstance(artifact, FilteredEmbeddings) else ""
    return hashlib.sha256(f"{artifact.version()} {kept}".encode()).hexdigest()


def findings_document(found: Findings) -> dict[str, Any]:
    """Return findings with their images as base64, for a page that shows all of it as text."""
    blocks: list[dict[str, Any]] = []
    for block in found.blocks:
        if isinstance(block, Table):
            rows = [[_cell(cell) for cell in row] for row in block.rows]
            blocks.append({"title": block.title, "headings": list(block.headings), "rows": rows})
        elif isinstance(block, Image):
            blocks.append({"title": block.title, "png": base64.b64encode(block.png).decode()})
    notes = [printable(note) for note in found.notes]
    return {"stage": found.stage, "state": found.state, "uri": found.uri, "notes": notes, "blocks": blocks}


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float) else printable(str(value))
