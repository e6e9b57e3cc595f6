"""Checkpoints: whole tensors as safetensors, sealed by a unit record that is written last; and the record of the end.

A checkpoint depends neither on the number of workers nor on the ZeRO stage that it was written with.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from stages.contract.digests import read_digest
from stages.contract.documents import Document
from stages.contract.errors import ArtifactError, DamagedFile, FailureCause
from stages.contract.events import LoggedSteps, RolledBack
from stages.contract.measures import Measure, Protocol
from stages.formats.training_logs import TRAINING_LOG, read_log, write_log
from stages.storage.artifact import UNITS, Artifact, Output
from stages.storage.folder import CHECKPOINTS, DAMAGED
from stages.storage.takeover import take_files

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "checkpoint_"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after ``step`` steps: tensors by part and name, and the samples left out so far."""

    step: int
    state: "Mapping[str, Mapping[str, Tensor]]"
    left_out: Mapping[str, FailureCause] = field(default_factory=dict)
    skipped: int = 0
    """Steps by which the samples are ahead of ``step``, as those of bad steps were passed over."""
    logged: LoggedSteps = field(default=LoggedSteps(), repr=False)
    """What was logged up to ``step``, in its order, and where training rolled back."""
    num_updates: int | None = None
    """Steps that changed the weights, where some were skipped; none: not known, of earlier versions."""


class CheckpointRecord(Document):
    """The unit record of a checkpoint."""

    step: int
    parts: tuple[str, ...]
    left_out: dict[str, FailureCause] = Field({})
    skipped: int = Field(0, description="steps by which the samples are ahead")
    num_updates: int | None = Field(None, description="steps that changed the weights")
    checksums: dict[str, str] = Field({}, description="SHA-256 of each part's file, of earlier versions")


class BestRecord(Document):
    """The record of the best validation so far, written after its weights."""

    file = f"{CHECKPOINTS}/best.json"

    step: int
    metrics: dict[str, float]
    measures: dict[str, Measure] = Field({})
    protocols: dict[str, Protocol] = Field({})

    @classmethod
    def read(cls, output: Artifact) -> "BestRecord | None":
        """Return the record, or None where nothing was validated yet, or it is damaged."""
        try:
            return cls.of(output) if output.exists(cls.file) else None
        except DamagedFile as error:
            _log.warning("%s: the best validation is looked for anew", str(error).partition(": expected")[0])
            return None

    @property
    def weights(self) -> str:
        """The file of the averaged weights."""
        return f"{CHECKPOINTS}/best_{self.step:08d}.safetensors"


class ValidationsRecord(Document):
    """What validations found so far, for a training that is stopped and goes on."""

    file = f"{CHECKPOINTS}/validations.json"

    by_step: dict[int, dict[str, float]] = Field({})

    @classmethod
    def until(cls, artifact: Artifact, step: int) -> "ValidationsRecord":
        """Return those up to a step; of a damaged record, none."""
        try:
            found = cls.of(artifact).by_step if artifact.exists(cls.file) else {}
        except ArtifactError as error:
            _log.warning("%s: earlier validations are forgotten", str(error).partition(": expected")[0])
            found = {}
        return cls(by_step={number: metrics for number, metrics in found.items() if number <= step})


class RollBacksRecord(Document):
    """Where a training rolled back so far, written when it does so: the checkpoint that it went to does not say it.

    Whoever goes on from that checkpoint passes over the same samples, and knows which reports do not count.
    """

    file = f"{CHECKPOINTS}/roll_backs.json"

    rows: tuple[tuple[int, int, int, int], ...] = Field(
        (), description="to which step, from which, time in milliseconds, and the step whose samples are next"
    )

    @classmethod
    def read(cls, artifact: Artifact) -> "RollBacksRecord":
        """Return the record; where a training never rolled back, or it is damaged, an empty one."""
        try:
            return cls.of(artifact) if artifact.exists(cls.file) else cls()
        except ArtifactError as error:
            _log.warning("%s: earlier roll backs are forgotten", str(error).partition(": expected")[0])
            return cls()

    @property
    def roll_backs(self) -> tuple[RolledBack, ...]:
        """The roll backs, the first one first."""
        return tuple(RolledBack(*row[:3]) for row in self.rows)

    def data_step_at(self, step: int) -> int:
        """Return the step whose samples are next at least, where training goes on from the checkpoint of ``step``.

        From a checkpoint before the one that it went back to, it takes the same steps again, and goes back again.
        """
        return max((data_step for to_step, *_, data_step in self.rows if to_step <= step), default=0)

    def adding(self, event: RolledBack, data_step: int) -> "RollBacksRecord":
        """Return the record with one more, after which the samples of step ``data_step`` are next."""
        return RollBacksRecord(rows=(*self.rows, (event.to_step, event.from_step, event.time, data_step)))


class TrainedRecord(Document):
    """The unit record of the trained model, written after it."""

    file = f"{UNITS}/model.json"

    step: int
    metrics: dict[str, float]
    notes: dict[str, str] = Field({})
    failures: dict[str, int] = Field({}, description="samples left out, by cause")
    measures: dict[str, Measure] = Field({}, description="of those metrics that have them; none by earlier versions")
    protocols: dict[str, Protocol] = Field({}, description="of the measures, by digest")

    @classmethod
    def read(cls, output: Output) -> "TrainedRecord | None":
        """Return the record, or None while training is not finished."""
        return cls.of(output) if output.exists(cls.file) else None

    def write(self, output: Output) -> None:
        """Write it, with the checksums of the model's files: from now on the training is finished."""
        output.check_lease()
        output.write_record(self.file, self.to_json())


class ContinuedRecord(Document):
    """From which checkpoint of which other artifact a training goes on; written before that checkpoint is taken."""

    file = "continued.json"

    fingerprint: str
    step: int

    @classmethod
    def read(cls, artifact: Artifact) -> "ContinuedRecord | None":
        """Return the record, or None where a training began by itself."""
        return cls.of(artifact) if artifact.exists(cls.file) else None


def write_checkpoint(output: Output, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write a checkpoint, then delete all but the newest ``keep`` ones.

    Those of later steps are deleted as well: training went on from an earlier one, as they could not be used.
    """
    from safetensors.torch import save_file

    record = CheckpointRecord(
        step=checkpoint.step,
        parts=tuple(sorted(checkpoint.state)),
        left_out=dict(checkpoint.left_out),
        skipped=checkpoint.skipped,
        num_updates=checkpoint.num_updates,
    )
    with output.collecting():
        for part, tensors in checkpoint.state.items():
            with output.writing(_part(checkpoint.step, part)) as path:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        write_log(output, _log_file(checkpoint.step), checkpoint.logged)
        output.check_lease()
        output.write_record(_record(checkpoint.step), record.to_json())
    steps = checkpoint_steps(output)
    later = [step for step in steps if step > checkpoint.step]
    for old in [*later, *steps[: len(steps) - len(later)][:-keep]]:
        _delete(output, old)


def set_checkpoint_aside(output: Output, step: int) -> None:
    """Move a checkpoint to the folder of damaged files, its record first: it no longer counts, and nothing is lost."""
    output.set_aside([_record(step), *output.glob(f"{_folder(step)}/*")])
    output.remove(_folder(step))


def take_checkpoint(source: Artifact, step: int, output: Output) -> None:
    """Make a checkpoint of another artifact one of this, with the best weights so far, where that one keeps them.

    Files are compared with their checksums, and linked.

    Raises:
        ArtifactError: it is not there any more, or not what was written.
    """
    ContinuedRecord(fingerprint=source.fingerprint, step=step).write(output)
    ValidationsRecord.until(source, step).write(output)
    best = BestRecord.read(source)
    for record in [_record(step)] if best is None or best.step > step else [BestRecord.file, _record(step)]:
        with output.collecting():
            content = take_files(source, record, output)
            output.check_lease()
            output.write_record(record, content)


def checkpoint_steps(artifact: Artifact) -> list[int]:
    """Return the steps of all whole checkpoints, ascending."""
    names = artifact.glob(f"{UNITS}/{_PREFIX}*.json")
    steps = (name.removesuffix(".json").rpartition(_PREFIX)[2] for name in names)
    return sorted(int(step) for step in steps if re.fullmatch(r"[0-9]{8,18}", step))  # others are not ours


def read_checkpoint(output: Output, step: int) -> Checkpoint:
    """Read the checkpoint of a step, to the CPU.

    Raises:
        ArtifactError: a file of it is missing, or is not what was written.
    """
    from safetensors.torch import load_file

    content, sums = output.read_record(_record(step))
    record = CheckpointRecord.parse(content, output, _record(step))
    state = {}
    for part in record.parts:
        name = _part(step, part)
        path = output.local(name, record=_record(step), may_sample=False)
        if sums is None:
            _check_sum(path, record.checksums.get(part), output.path(name))
        state[part] = load_file(path)
    logged = read_log(output, _log_file(step), _record(step))
    return Checkpoint(record.step, state, record.left_out, record.skipped, logged, record.num_updates)


def read_logged(artifact: Artifact) -> LoggedSteps:
    """Return what a training has logged, up to the trained model or its newest whole checkpoint, and all roll backs.

    Of one that goes on from another artifact's checkpoint, what that one's training had logged is left out. A damaged
    log is passed over, with a warning.
    """
    logged = _newest_log(artifact)
    roll_backs = joined(logged.roll_backs, RollBacksRecord.read(artifact).roll_backs)
    try:
        continued = ContinuedRecord.read(artifact)
    except ArtifactError as error:
        _warn_of_missing(error)
        return LoggedSteps()
    if continued is None:
        return LoggedSteps(logged.rows, roll_backs)
    return LoggedSteps(
        tuple(row for row in logged.rows if row.step > continued.step),
        tuple(one for one in roll_backs if one.to_step >= continued.step),
    )


def joined(*roll_backs: Iterable[RolledBack]) -> tuple[RolledBack, ...]:
    """Return each of these roll backs once, the first one first."""
    return tuple(sorted({one for some in roll_backs for one in some}, key=lambda one: one.time))


def _newest_log(artifact: Artifact) -> LoggedSteps:
    steps = reversed(checkpoint_steps(artifact))
    files = [(TRAINING_LOG, TrainedRecord.file)] if artifact.exists(TrainedRecord.file) else []
    files += [(_log_file(step), _record(step)) for step in steps]
    for name, record in files:
        try:
            return read_log(artifact, name, record)
        except ArtifactError as error:
            _warn_of_missing(error)
    return LoggedSteps()


def _warn_of_missing(error: ArtifactError) -> None:
    _log.warning("%s: some logged steps may be missing from the tracker", str(error).partition(": expected")[0])


def _check_sum(path: Path, expected: str | None, name: str) -> None:
    found = read_digest(path).hex() if path.is_file() else "no file"
    if found != expected:
        raise ArtifactError(
            f"training: {name}: found {found[:12]}, expected the checksum {(expected or 'none')[:12]} of its record: "
            "the file was damaged after it was written: check the disk"
        )


def write_best(output: Output, record: BestRecord, weights: "Mapping[str, Tensor]") -> None:
    """Write the averaged weights of the best validation in place of those before."""
    from safetensors.torch import save_file

    old = BestRecord.read(output)
    with output.collecting():
        with output.writing(record.weights) as path:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
        output.write_record(record.file, record.to_json())
    if old is not None and old.step != record.step:
        output.remove(old.weights)


def read_best_weights(output: Output, record: BestRecord) -> "dict[str, Tensor]":
    """Read the averaged weights of the best validation, to the CPU.

    Raises:
        DamagedFile: they are not what was written; they are set aside, so that the next start looks for others.
    """
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(output.local(record.weights, record=record.file, may_sample=False))
    except DamagedFile:
        output.set_aside([record.file, record.weights])
        raise
    return state


def remove_checkpoints(output: Output, *, but: int | None = None) -> None:
    """Delete all checkpoints but that of a step, damaged ones too, when the trained model is in place."""
    steps = checkpoint_steps(output)
    output.remove(RollBacksRecord.file)  # the log of the trained model has them
    for step in steps:
        if step != but:
            _delete(output, step)
    if but not in steps:
        output.remove(CHECKPOINTS)
    output.remove(f"{DAMAGED}/{CHECKPOINTS}")


def _delete(output: Output, step: int) -> None:
    output.remove(_record(step))  # first, so that no record ever stands for missing files
    output.remove(_folder(step))


def _record(step: int) -> str:
    return f"{UNITS}/{_PREFIX}{step:08d}.json"


def _part(step: int, part: str) -> str:
    return f"{_folder(step)}/{part}.safetensors"


def _log_file(step: int) -> str:
    return f"{_folder(step)}/log.json"


def _folder(step: int) -> str:
    return f"{CHECKPOINTS}/{step:08d}"
