"""What trainings that are done had logged, where the process was killed that was to record it."""

from collections.abc import Iterator

from pipeline.outbox.operations import StepsLogged
from pipeline.plan import Plan, PlannedStage
from pipeline.record import RunRecord, StageState
from pipeline.store import Store
from stages.formats.checkpoints import read_logged
from stages.storage.artifact import Artifact
from stages.training.config import LoopConfig

_MADE_HERE: tuple[StageState, ...] = ("running", "interrupted", "done")


def steps_to_record(plan: Plan, store: Store, earlier: RunRecord | None) -> list[StepsLogged]:
    """Return what the trainings had logged which an earlier start of the run made, and did not close its record after.

    A training that is not done reports by itself what is kept with its checkpoint.
    """
    if earlier is None or earlier.status == "done":
        return []
    made = {entry.name for entry in earlier.stages if entry.state in _MADE_HERE}
    found = [stage for stage in plan.stages.values() if stage.state == "done" and stage.name in made]
    return [operation for stage in found for operation in _of_stage(stage, store)]


def _of_stage(stage: PlannedStage, store: Store) -> Iterator[StepsLogged]:
    if not isinstance(stage.config, LoopConfig):
        return
    whole = store.artifact(stage.name, stage.fingerprint)
    for part in stage.config.parts:
        artifact = Artifact(f"{whole.uri}/{part.folder}", stage.name, stage.fingerprint) if part.folder else whole
        for some in part.logged(read_logged(artifact)).split():
            yield StepsLogged.of(stage.name, some)
