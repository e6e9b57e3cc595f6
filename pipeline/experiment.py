"""A config with its store and plan, and the leases of what it is to make."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.leases import LeaseTimes
from pipeline.plan import Plan, make_plan
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.stored_models import with_stored_models
from stages.storage.artifact import Artifact
from stages.storage.patience import waiting_for


@dataclass(frozen=True)
class Experiment:
    """A config with its store and plan."""

    config: RunConfig
    path: str
    store: Store
    plan: Plan
    planning: Callable[[RunConfig, Store], Plan] = make_plan

    @classmethod
    def open(
        cls, config: RunConfig, path: str, planning: Callable[[RunConfig, Store], Plan] = make_plan
    ) -> "Experiment":
        """Plan the config against its store."""
        from stages.storage.filesystems import use_environment

        use_environment(config.storage.environment())
        store = Store(config.store)
        return cls(config, path, store, planning(config, store), planning)

    def finished_record(self) -> RunRecord | None:
        """Return the run's record where the run is over and everything is in the store."""
        if not self.plan.is_done:
            return None
        try:
            record = self.store.read_run(self.plan.run)
        except UsageError:  # damaged: the run writes another
            return None
        return record.as_reused() if record is not None and record.status == "done" else None

    def planned_again(self) -> "Experiment":
        """Return it with what is done now, as another driver may have made some of it."""
        plan = with_stored_models(self.planning(self.config, self.store), self.store)
        if plan.run != self.plan.run:
            raise UsageError(
                f"run {self.plan.run}: its sources changed while another driver was waited for, which makes it "
                f"{plan.run}: run the same command again"
            )
        return replace(self, plan=plan)

    def check_reused(self, to_come: Collection[str] = ()) -> None:
        """Return where the store holds all that is taken from other experiments; else raise UsageError.

        ``to_come`` are fingerprints of artifacts that it will hold before this experiment runs.
        """
        for stage in self.plan.stages.values():
            if stage.reused_from and stage.state != "done" and stage.fingerprint not in to_come:
                raise UsageError(
                    f"reuse.{stage.name}: the store {self.store.uri} does not hold it yet; "
                    f"make it with `corgi run {stage.reused_from}`"
                )

    @contextlib.contextmanager
    def leased(self, report: Callable[[str], None]) -> "Iterator[Experiment]":
        """Hold the leases of all that is to be made; yield the experiment with what is done by then.

        Raises:
            UsageError: another driver goes on holding one, or what it left cannot be run.
        """
        storage = self.config.storage
        times = LeaseTimes(storage.lease_timeout, storage.lease_wait)
        experiment = replace(self, plan=with_stored_models(self.plan, self.store))
        with waiting_for(storage.patience), contextlib.ExitStack() as held:
            while True:
                to_make = experiment.undone()
                leases = held.enter_context(self.store.leasing(experiment.plan.run, to_make, times, report))
                if not leases.has_waited and not any(artifact.is_complete for artifact in to_make):
                    break
                experiment = experiment.planned_again()
                experiment.check_reused()
                if not (without := {one.stage for one in experiment.undone()} - {one.stage for one in to_make}):
                    self._release_done(experiment.plan)
                    break
                report(f"{', '.join(sorted(without))}: damage was set aside meanwhile: to be made again, by this run")
                held.close()  # leases are taken in the order of the stages, or two drivers may wait for each other
            yield experiment

    def undone(self) -> list[Artifact]:
        """Return the artifacts that are to be made, in the order of their stages."""
        stages = self.plan.stages.values()
        return [self.store.artifact(stage.name, stage.fingerprint) for stage in stages if stage.state != "done"]

    def _release_done(self, plan: Plan) -> None:
        for stage in plan.stages.values():
            if stage.state == "done":
                self.store.release(stage.name, stage.fingerprint)
