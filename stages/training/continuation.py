"""Going on from a checkpoint of an earlier artifact, whose training differs in the number of its steps alone."""

import logging
from collections.abc import Iterable

from stages.contract.errors import ArtifactError
from stages.contract.events import Log
from stages.contract.stage import StageContext
from stages.formats.checkpoints import (
    BestRecord,
    ContinuedRecord,
    RollBacksRecord,
    ValidationsRecord,
    checkpoint_steps,
    take_checkpoint,
)
from stages.storage.artifact import Artifact, Output
from stages.training.config import TrainingConfig

CONTINUED = "continued_from"
"""The name of the note that says from which checkpoint a training went on."""
_log = logging.getLogger(__name__)


def find_checkpoint(earlier: Iterable[Artifact], config: TrainingConfig) -> tuple[Artifact, int] | None:
    """Return the newest checkpoint of these artifacts from which the training has steps left to take; None: none."""
    if not config.can_go_on:
        return None
    found = [
        (step, one.fingerprint, one) for one in earlier for step in checkpoint_steps(one) if step < config.num_steps
    ]
    step, _, artifact = max(found, key=lambda each: each[:2], default=(0, "", None))
    return None if artifact is None else (artifact, step)


def go_on_from_earlier(output: Output, context: StageContext, config: TrainingConfig) -> None:
    """Take the newest checkpoint of an earlier artifact of the same recipe, where this one has none of its own."""
    if checkpoint_steps(output):
        return
    if (found := find_checkpoint(context.earlier, config)) is None:
        _forget(output)
        return
    source, step = found
    try:
        take_checkpoint(source, step, output)
    except ArtifactError as error:  # it was removed, or damaged: as if it had never been there
        _log.warning("%s: training starts anew", str(error).partition(": expected")[0])
        _forget(output)
        return
    context.emit(Log(f"goes on from step {step:,} of artifact {source.fingerprint}, which differs in num_steps alone"))


def _forget(output: Output) -> None:
    """Remove what a taking that was cut, or found its source damaged, has left: it would claim a beginning."""
    if output.exists(ContinuedRecord.file):
        for file in (BestRecord.file, ValidationsRecord.file, RollBacksRecord.file, ContinuedRecord.file):
            output.remove(file)


def lineage_notes(output: Output) -> dict[str, str]:
    """Return what a summary says of where a training began."""
    record = ContinuedRecord.read(output)
    return {} if record is None else {CONTINUED: f"step {record.step:,} of artifact {record.fingerprint}"}
