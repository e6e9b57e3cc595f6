"""Run the graph as Ray tasks wired by their references; the store is the memory, so any run may be cut short.

A stage starts when its inputs are done and what it asks for is free, so that independent branches run side by side
where the machines allow it. One that follows an input shard by shard starts as soon as that runs, if there is room for
both. A stage that fails takes down only the stages that need it.
"""

import functools
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.channel import Channel, Sender
from cluster.losses import MemoryKills, describe_loss, memory_kills
from cluster.machines import Machines, machines_now
from cluster.task_signs import TaskLimits, TaskSign, TaskWatchdog
from pipeline.allocation import allocate_all, allocate_anew, allocate_beside, leave_room
from pipeline.errors import UsageError
from pipeline.losses import StageLosses
from pipeline.mending import Mending
from pipeline.plan import Plan, PlannedStage
from pipeline.processes import Environment
from pipeline.progress import MadeItems
from pipeline.results import Observer, StageResult, reused_result
from pipeline.stage_job import END, StageJob, run_stage_job
from pipeline.stage_results import ended_by, ended_by_loss, measured
from pipeline.store import Store
from stages.contract.errors import DamagedFile
from stages.contract.events import Log, Progress
from stages.contract.secrets import redact
from stages.contract.stage import Allocation
from stages.storage.artifact import Artifact

POLL_SECONDS = 0.2
_RECOUNT_SECONDS = 5.0  # between two looks at the nodes
_RESTARTS = 3
"""Starts of a stage's process after it was lost, without getting further; what it has finished is kept."""
_log = logging.getLogger(__name__)


class GraphRun:
    """One pass over a plan."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        machines: Machines,
        observer: Observer,
        environment: Mapping[str, str] | None = None,
        *,
        restarts: int = _RESTARTS,
    ) -> None:
        self._plan = plan
        self._store = store
        self._restarts = restarts
        self._observer = observer
        self._machines = machines
        self._environment = Environment(environment or {})
        self._allocations = allocate_all([s.config for s in plan.stages.values() if _to_do(s)], machines)
        self._held: dict[str, Allocation] = {}  # what those that have started got of it
        self._next_count = time.monotonic() + _RECOUNT_SECONDS
        self._channel = Channel()
        self._node = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(self._node, soft=False)
        self._results: dict[str, StageResult] = {}
        self._running: dict[ray.ObjectRef[Any], str] = {}
        self._refs: dict[str, ray.ObjectRef[Any]] = {}
        self._started: dict[str, float] = {}
        self._made: dict[str, MadeItems] = {}
        self._upstream: dict[str, tuple[str, ...]] = {}
        self._mending = Mending(plan, store)
        self._damaged: list[tuple[StageResult, DamagedFile]] = []  # the first one's damage is seen to
        self._aside: tuple[str, Future[bool]] | None = None  # whose damage that is, and whether it was set aside
        self._alone: set[str] = set()  # stages that wait for their inputs, as they met damage while streaming from one
        self._stopped: set[str] = set()  # stages that start again when they have ended: an input is made again
        self._losses = StageLosses()
        self._reasons: dict[str, str] = {}
        self._is_ending = False
        self._memory = MemoryKills(self._node)
        self._watchdog = TaskWatchdog()

    def run(self) -> dict[str, StageResult]:
        """Run all that is to be run and return every stage's result, in running order."""
        with self._mending:
            for stage in self._plan.stages.values():
                if not _to_do(stage):
                    self._reuse(stage)
            for name in self._mending.made_again():
                if name in self._results:
                    self._reopen_stale(name)
            while len(self._results) < len(self._plan.stages):
                self._store.check_leases()
                self._count_machines()
                self._start_what_can_start()
                self._wait()
        return {name: self._results[name] for name in self._plan.stages}

    def _reuse(self, stage: PlannedStage) -> None:
        try:
            self._settle(reused_result(stage, self._store))
        except DamagedFile as damage:
            while (again := self._make_again(damage)) is None:
                time.sleep(POLL_SECONDS)
            if not again:
                raise

    @property
    def trains(self) -> list[str]:
        """The names of the training stages that run."""
        return [name for name in self._running.values() if self._plan.stages[name].config.work == "training"]

    def wind_down(self, seconds: float) -> None:
        """Stop what runs, and let training write a checkpoint before, within the time."""
        self._is_ending = True
        trains, until = self.trains, time.monotonic() + seconds
        self._channel.post(END, True)
        for ref, name in list(self._running.items()):
            if name not in trains:
                ray.cancel(ref, force=True)
                del self._running[ref]
                self._watchdog.end(name)
        while self._running and time.monotonic() < until:
            self._wait()
        self.cancel()

    def cancel(self) -> None:
        """Stop what runs; finished units stay in the store."""
        for ref in self._running:
            ray.cancel(ref, force=True)

    def _count_machines(self) -> None:
        """Look at times which nodes have come or gone; stages that have not started yet are sized by those there."""
        if time.monotonic() < self._next_count:
            return
        self._next_count = time.monotonic() + _RECOUNT_SECONDS
        machines = machines_now()
        if machines == self._machines:
            return
        self._machines = machines
        waiting = [stage.config for stage in self._plan.stages.values() if self._is_waiting(stage)]
        try:
            self._allocations |= allocate_anew(waiting, self._allocations, machines)
        except UsageError as error:  # nodes were lost: what was to start is started all the same, with fewer workers
            _log.warning("%s", error)

    def _is_waiting(self, stage: PlannedStage) -> bool:
        return not self._is_set_aside(stage.name) and stage.name not in self._results.keys() | self._started.keys()

    def _is_set_aside(self, name: str) -> bool:
        """Return whether damage of a stage is being set aside just now: neither it nor who reads it is started."""
        return self._aside is not None and self._aside[0] == name

    def _start_what_can_start(self) -> None:
        for name, stage in self._plan.stages.items():
            if not self._is_waiting(stage):
                continue
            states = {source: self._results[source].state for source in stage.inputs if source in self._results}
            lost = [source for source, state in states.items() if state in {"failed", "blocked"}]
            if lost:
                self._settle(StageResult(name, "blocked", error=f"needs {', '.join(lost)}"))
            elif (allocation := self._allocate_now(stage)) is not None:
                self._start(stage, allocation)

    def _allocate_now(self, stage: PlannedStage) -> Allocation | None:
        """Return what the stage gets if it can start now."""
        allocation, free = self._allocations[stage.name], self._free()
        missing = self._missing(stage)
        if missing:
            running = set() if stage.name in self._alone else set(self._running.values())
            can_stream = set(missing) <= set(stage.streams_from) and set(missing) <= running
            return allocate_beside(stage.config, allocation, free) if can_stream else None
        if not self._running:
            waiting = [other for other in self._plan.stages.values() if stage.name in other.streams_from]
            downstream = [o for o in waiting if o.name not in self._results and self._missing(o) == [stage.name]]
            wanted = [(other.config, self._allocations[other.name]) for other in downstream]
            allocation = leave_room(stage.config, allocation, wanted, free)
        fits = allocation.cpus <= free.num_cpus and allocation.gpus <= free.num_gpus
        return allocation if fits or not self._running else None  # alone, it waits for nodes by itself

    def _missing(self, stage: PlannedStage) -> list[str]:
        return [one for one in stage.inputs if one not in self._results or self._is_set_aside(one)]

    def _free(self) -> Machines:
        """Return the machines, with those that may come, without what runs.

        A stage whose followed inputs are done takes all it was granted.
        """
        busy = [
            allocation if {*self._upstream[name]} - self._results.keys() else replace(allocation, workers_beside=None)
            for name in self._running.values()
            if (allocation := self._held[name])
        ]
        cpus = self._machines.cpus_in_the_end - sum(allocation.cpus for allocation in busy)
        gpus = self._machines.gpus_in_the_end - sum(allocation.gpus for allocation in busy)
        return replace(self._machines, num_cpus=cpus, num_gpus=gpus)

    def _start(self, stage: PlannedStage, allocation: Allocation) -> None:
        self._held[stage.name] = allocation
        self._upstream[stage.name] = tuple(self._missing(stage))
        self._started[stage.name], self._made[stage.name] = time.monotonic(), MadeItems()
        self._observer.started(stage, allocation)
        self._submit(stage)

    def _submit(self, stage: PlannedStage) -> None:
        """Submit the stage's task; where its process is lost, this is called again.

        Ray does not do that itself (max_retries): of processes on a machine that is out of memory, its monitor kills
        those first that it may start again, and then the youngest. So the workers, which hold the memory, go before
        the task that drives them, and the channel's mailbox, which is older than both, last.
        """
        self._memory.note(self._node, memory_kills())
        allocation, upstream = self._held[stage.name], self._upstream[stage.name]
        inputs = {source: self._artifact(source) for source in stage.inputs}
        output = self._store.output(stage.name, stage.fingerprint)
        job = StageJob(
            stage.config, stage.identity, inputs, output, allocation, upstream, self._environment, self._plan.run,
            digests=None if stage.config.work == "single" else self._store.digests,
        )  # fmt: skip
        alone = stage.config.work == "single"
        task = ray.remote(run_stage_job).options(
            name=stage.name,
            num_cpus=allocation.cpus_per_worker if alone else 0,
            num_gpus=allocation.gpus_per_worker if alone else 0,
            max_retries=0,
            # What only drives the workers stays with this process, so that no other node can take it down.
            scheduling_strategy="DEFAULT" if alone else self._here,
        )
        sender: Sender = self._channel.sender(stage.name)
        done = [source for source in stage.inputs if source in self._refs and source not in upstream]
        finished = [self._refs[source] for source in done]
        self._made[stage.name].begin()
        ref = task.remote(job, sender, *finished)
        self._refs[stage.name] = ref
        self._running[ref] = stage.name
        limits = TaskLimits(allocation.heartbeat_timeout, allocation.stage_timeout)
        self._watchdog.begin(stage.name, limits, functools.partial(self._warn, stage.name))

    def _warn(self, name: str, message: str, attachment: str = "") -> None:
        self._observer.event(name, Log(message, "WARNING", attachment=attachment))

    def _artifact(self, name: str) -> Artifact:
        return self._store.artifact(name, self._plan.stages[name].fingerprint)

    def _wait(self) -> None:
        self._see_to_damage()
        if not self._running:
            time.sleep(POLL_SECONDS if self._damaged else 0)
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
        self._dispatch_events()
        self._watchdog.check()
        for ref in ready:
            name = self._running.pop(ref)
            self._watchdog.end(name)
            if name not in self._stopped and self._is_restarted(ref, name):
                continue
            result = replace(self._result_of(ref, name), upstream=self._upstream[name])
            was_stopped = name in self._stopped
            self._stopped.discard(name)
            if result.state != "done" and was_stopped:  # until an input that it streams from starts again
                self._forget(name)
            elif result.damage is not None:
                self._damaged.append((result, result.damage))
            else:
                self._finish(result)

    def _finish(self, result: StageResult) -> None:
        name = result.name
        if result.state == "done":
            self._mending.compare(name)
            self._reopen_stale(name)
            self._store.release(name, self._plan.stages[name].fingerprint)
        else:
            self._store.check_leases(fresh=True)  # which may be why it has failed
        self._channel.post(name, result.state)
        self._settle(result)

    def _see_to_damage(self) -> None:
        """Go on with the first of the stages that met damage: it starts again behind what made it, or has failed."""
        if not self._damaged:
            return
        result, damage = self._damaged[0]
        try:
            again = self._make_again(damage)
        except UsageError as error:  # it is the trouble of this stage alone
            again = False
            result = replace(result, error=f"{result.error}; it could not be made again by this run: {error}")
        if again is None:
            return
        del self._damaged[0]
        if again:
            self._alone.add(result.name)
            self._forget(result.name)
        else:
            self._finish(result)

    def _make_again(self, damage: DamagedFile) -> bool | None:
        """Let the stage that made a damaged file make it again first; None: it is being set aside, to be asked again.

        Raises:
            UsageError: another driver is at it, or the machines there are now have no room for the stage.
        """
        name = damage.stage
        if self._aside is None:
            planned = self._plan.stages.get(name)
            if planned is None or planned.fingerprint != damage.fingerprint:
                return False
            if name in self._running.values():
                return True  # whoever met it waits for the end of that stage, and looks again
            if self._is_waiting(planned) and self._mending.is_aside(damage):
                return True  # another stage met it before
            if name not in self._allocations:
                self._allocations |= allocate_all([planned.config], self._machines)
            self._aside = name, self._mending.set_aside_in_thread(damage)
        if not self._aside[1].done():
            return None
        aside, self._aside = self._aside[1], None
        if not aside.result():
            return False
        self._warn(name, f"{damage}".partition(": expected")[0] + ": it is made again")
        self._forget(name)
        return True

    def _reopen_stale(self, name: str) -> None:
        """Let stages start again that are done, but of earlier content of what a stage has just made."""
        finished = [one for one, result in self._results.items() if result.state in {"done", "reused"}]
        try:
            for stale in self._mending.reopen_stale(name, finished):
                if stale not in self._allocations:
                    self._allocations |= allocate_all([self._plan.stages[stale].config], self._machines)
                words = f"was made of earlier content of {name}: what has changed is made again"
                self._warn(stale, f"{words}; models that were trained on it stay as they are")
                self._forget(stale)
        except UsageError as error:
            self._warn(name, f"what was made of its earlier content could not be made again by this run: {error}")

    def _forget(self, name: str) -> None:
        """Let a stage start again, and those behind it that stream from it.

        They would hold what it needs to start, and wait for its units.
        """
        self._channel.post(name, None)
        for known in (self._results, self._refs, self._started):
            known.pop(name, None)
        for ref, other in self._running.items():
            if name in self._upstream[other] and other not in self._stopped:
                self._stopped.add(other)
                self._warn(other, f"is stopped until {name}, which it streams from, starts again: its units are kept")
                ray.cancel(ref, force=True)

    def _is_restarted(self, ref: "ray.ObjectRef[Any]", name: str) -> bool:
        """Start a stage again whose process was lost, and return whether that was done."""
        try:
            ray.get(ref)
        except (RayTaskError, TaskCancelledError):
            return False  # its own error, or nobody wants it any more
        except RayError as error:
            planned = self._plan.stages[name]
            losses = self._losses.note(self._artifact(name))
            self._reasons[name] = reason = redact(describe_loss(error, is_memory=self._memory.has_killed(self._node)))
            if self._is_ending or losses > self._restarts:
                return False
            self._warn(name, f"its process was lost ({reason}): it is started again")
            self._submit(planned)
            return True
        return False

    def _dispatch_events(self) -> None:
        for name, event in self._channel.collect():
            if isinstance(event, TaskSign):
                self._watchdog.note(name, event)
                continue
            if isinstance(event, Progress):
                self._made[name].note(event)
            self._observer.event(name, event)

    def _result_of(self, ref: "ray.ObjectRef[Any]", name: str) -> StageResult:
        try:
            result = StageResult(name, "done", summary=ray.get(ref))
        except RayTaskError as error:
            result = ended_by(name, error.cause, str(error))
        except RayError as error:
            result = ended_by_loss(name, self._losses.of(name), self._reasons.get(name, "cancelled"), str(error))
        return measured(result, self._started[name], self._made[name])

    def _settle(self, result: StageResult) -> None:
        self._results[result.name] = result
        self._observer.finished(result)


def _to_do(stage: PlannedStage) -> bool:
    return stage.state != "done"
