"""Damage that a stage meets in what was made before: set aside, and made again by the same run."""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future

from cluster.signals import signals_held_back
from pipeline.config.schema import is_trained
from pipeline.errors import UsageError
from pipeline.plan import Plan, PlannedStage
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError, DamagedFile
from stages.contract.stage import optional_module
from stages.formats.training_logs import TRAINING_LOG
from stages.storage.artifact import DAMAGED, UNITS, Output, unit_record
from stages.storage.checksums import FileSum
from stages.storage.patience import StorageAway
from stages.storage.verification import compare_again, set_damage_aside
from stages.streaming.staleness import stale_units

_MOST_TIMES = 2  # that a file is made again: a disk that damages it each time is to be seen to
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _trouble_of_one_stage(what: str) -> Iterator[None]:
    """Make what a store that is away raises the trouble of the stage that met the damage: no other is to end by it."""
    try:
        yield
    except (OSError, StorageAway) as error:
        raise UsageError(
            f"{what}: the store cannot be read or written ({error}): run again once it is there"
        ) from error


class Mending:
    """Sets damaged units of a run's artifacts aside; a context, which holds the locks of what it changes."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._times: Counter[tuple[str, str]] = Counter()
        self._before: dict[tuple[str, str], Mapping[str, FileSum]] = {}
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> "Mending":
        return self

    def __exit__(self, *error: object) -> None:
        """Release the locks."""
        self._locks.close()

    def set_aside_in_thread(self, damage: DamagedFile) -> "Future[bool]":
        """Do so beside the caller, whom a slow store or another driver's lease is not to hold up."""
        done: Future[bool] = Future()

        def work() -> None:
            try:
                done.set_result(self.set_aside(damage))
            except BaseException as error:  # noqa: BLE001  whoever waits for the result raises it
                done.set_exception(error)

        with signals_held_back():  # from the thread, so that they reach this one
            threading.Thread(target=work, name="corgi-mending", daemon=True).start()
        return done

    def set_aside(self, damage: DamagedFile) -> bool:
        """Set the unit of a damaged file aside; False: this run does not make it, or has done so too often.

        The file is read again first: what only one machine reads wrongly stays where it is.

        Raises:
            UsageError: another driver is at it, or the store is away.
        """
        with _trouble_of_one_stage(damage.stage):
            return self._set_aside(damage)

    def _set_aside(self, damage: DamagedFile) -> bool:
        stage = self._plan.stages.get(damage.stage)
        if stage is None or stage.fingerprint != damage.fingerprint or stage.reused_from is not None:
            return False
        self._times[damage.stage, damage.name] += 1
        if self._times[damage.stage, damage.name] > _MOST_TIMES:
            return False
        artifact = self._store.artifact(stage.name, stage.fingerprint)
        self._locks.enter_context(self._store.lock([artifact]))
        damaged = compare_again(artifact, damage)
        what = str(damage).partition(": expected")[0]
        if not damaged:
            _log.warning("%s: it is whole when it is read here: it is read again", what)
            return True
        output = self._store.output(stage.name, stage.fingerprint)
        for unit in {one.unit for one in damaged if one.unit is not None}:
            with contextlib.suppress(ArtifactError):
                self._before[stage.name, unit] = output.read_record(unit_record(unit))[1] or {}
        again = set_damage_aside(output, damaged, is_trained=is_trained(stage.name))
        _log.warning("%s: it is set aside, and made again: %s", what, ", ".join(again))
        return True

    def is_aside(self, damage: DamagedFile) -> bool:
        """Return whether what is damaged was set aside already, and is not made again yet."""
        mark = damage.name if damage.unit is None else unit_record(damage.unit)
        with _trouble_of_one_stage(damage.stage):
            return not self._store.artifact(damage.stage, damage.fingerprint).exists(mark)

    def made_again(self) -> list[str]:
        """Return the stages of which some units were set aside once, by any run."""
        artifacts = [self._store.artifact(one.name, one.fingerprint) for one in self._plan.stages.values()]
        return [one.stage for one in artifacts if one.glob(f"{DAMAGED}/{UNITS}/*")]

    def compare(self, name: str) -> None:
        """Say which units of a stage, now that they are made again, are not what they were before."""
        output = self._store.output(name, self._plan.stages[name].fingerprint)
        for stage, unit in [key for key in list(self._before) if key[0] == name]:
            before, now = self._before.pop((stage, unit)), self._sums_of(output, unit)
            same = {file for file, checksum in before.items() if now.get(file) == checksum}
            if before and {*before, *now} - same - {TRAINING_LOG}:  # which has times in it
                _log.warning(
                    "%s: unit %s was made again with other content than before, as its source has changed: models that "
                    "were trained on the earlier content stay as they are", stage, unit,
                )  # fmt: skip

    def _sums_of(self, output: Output, unit: str) -> Mapping[str, FileSum]:
        with contextlib.suppress(ArtifactError):  # the stage gave the unit up, or it was set aside once more
            return output.read_record(unit_record(unit))[1] or {}
        return {}

    def reopen_stale(self, source: str, finished: Collection[str]) -> list[str]:
        """Let finished stages that made units of a stage's units make those again whose source has other content now.

        Returns their names; ``source`` is the stage that has just made something.

        Raises:
            UsageError: another driver is at one of them, or the store is away.
        """
        with _trouble_of_one_stage(source):
            return self._reopen_stale(source, finished)

    def _reopen_stale(self, source: str, finished: Collection[str]) -> list[str]:
        reopened = []
        for stage in self._plan.stages.values():
            if source not in stage.inputs or stage.name not in finished or not (stale := self._stale(stage, source)):
                continue
            artifact = self._store.artifact(stage.name, stage.fingerprint)
            if stage.reused_from is not None:
                _log.warning(
                    "%s: %d of its units were made of earlier content of %s: delete %s, and make it again by "
                    "`corgi run %s`", stage.name, len(stale), source, artifact.uri, stage.reused_from,
                )  # fmt: skip
                continue
            self._locks.enter_context(self._store.lock([artifact]))
            self._store.output(stage.name, stage.fingerprint).unseal()
            reopened.append(stage.name)
        return reopened

    def _stale(self, stage: PlannedStage, source: str) -> list[str]:
        """Return the units of a finished stage that were made of other content than its inputs have now."""
        found = optional_module(f"stages.{stage.name}", "contents")
        artifact = self._store.artifact(stage.name, stage.fingerprint)
        made_of = Manifest.of(artifact).inputs
        if found is None or made_of.get(source) != self._plan.stages[source].fingerprint:
            return []
        inputs = {name: self._store.artifact(name, fingerprint) for name, fingerprint in made_of.items()}
        made_from = {unit: record.get("made_from", "") for unit, record in artifact.done_units().items()}
        return stale_units(made_from, found.contents(stage.config, inputs))
