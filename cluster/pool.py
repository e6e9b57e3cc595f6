"""The map over a Ray cluster: a pool of actors, of which any may be lost at any time.

Ray tells of an actor that has died and of a node that does not answer the head (RayActorError). What it does by itself
is not used: its restarts (max_restarts, max_task_retries) count over an actor's life, bind an item to one actor, which
may wait for a node that never comes back while others are idle, and start an item that kills its worker again and
again. So here a lost worker's item goes to another worker, and losses are counted by item. A worker is also lost when
it gives no sign of life (a stopped process, a node cut off from this one alone), and when it stands still at an item.

ray.util.ActorPool gives items to actors that Ray has no room for yet, and cannot wait for these; Ray Data's map_batches
keeps an idle actor while items may still arrive, and drops the exceptions of failed items.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.attention import AttentiveClock
from cluster.errors import WorkersLost
from cluster.growth import Growth
from cluster.losses import MemoryKills, describe_loss
from cluster.mapping import POLL_SECONDS, Inbox, Items, MakeWorker, Task, WorkerResources
from cluster.metrics import count
from cluster.pool_worker import ask_for_sign, stack_of, start_worker
from cluster.workers import AtWork, Report, Reporter

_TICK_SECONDS = 1.0  # between two looks at the signs of life
_MOST_TICK_SECONDS = 1.5  # a longer one, by the clock of silence, is that of a consumer that takes its time
_SIGNS_PER_TIMEOUT = 4  # signs of life asked for within a timeout
_SIGN_SECONDS = 5.0  # between two of them at most, as they say how far a worker is
_FRESH_SIGNS = 2  # pauses between signs of life after which a worker is given no item until it has given another one
_NOTICE_FRACTION = 0.5  # of the timeout, after which a slow item is reported
_START_PATIENCE = 10  # times the heartbeat timeout: loading a model may hold up a whole process for a while
_NO_ROOM_SECONDS = 60.0  # without any worker, after which the cluster is said to have no room
_START_PAUSE = 60.0  # seconds without further starts, after several failed one after another beside workers that live
_MAX_REASON = 300  # characters
_log = logging.getLogger(__name__)


def map_on_ray(
    make_worker: MakeWorker, items: Items, resources: WorkerResources, report: Report = lambda machines: None
) -> Iterator[Any]:
    """Run the map on a pool of Ray actors, and report on which machines they are.

    Raises:
        WorkersLost: items were set aside, as each took down several workers; or no worker lives until it is ready.
    """
    inbox, pool = Inbox(items), _Pool(make_worker, resources, report)
    first_error: BaseException | None = None
    try:
        while inbox.poll() or pool.is_busy:
            pool.enlarge(inbox)
            pool.dispatch(inbox)
            done = list(pool.wait(POLL_SECONDS if inbox.grows else _TICK_SECONDS, inbox))
            pool.dispatch(inbox)  # before the results are handled, so that no actor waits for that
            for result, error in done:
                if error is not None:
                    first_error = first_error or error
                else:
                    yield result
    finally:
        pool.release()
    if first_error is not None:
        raise first_error
    if pool.set_aside:
        raise _items_lost(pool.set_aside)


@dataclass(eq=False)
class _Member:
    """An actor of the pool, at work on a task, idle, or getting ready."""

    actor: Any
    call: Any
    """The reference of its present call; None while it is idle."""
    since: float
    """When the call began."""
    task: Task | None = None
    is_ready: bool = False
    last_sign: float | None = None
    """None: it has given none yet, as Ray may still have no room for it."""
    ping: Any = None
    """The reference of a sign of life that it has been asked for."""
    asked: float = -1.0
    """When it was asked for that one."""
    lived: float = -1.0
    """When it was asked for the last one that it has given."""
    node: str = ""
    machine: str = ""
    samples: int = 0
    """Done of its present item, as it said last."""
    is_noticed: bool = False
    """Whether it was reported as slow at its present item."""


class _Pool:
    """The actors of a map; those that Ray has no room for yet hold no item."""

    def __init__(self, make_worker: MakeWorker, resources: WorkerResources, report: Report) -> None:
        import ray

        self._make_worker, self._resources = make_worker, resources
        self._members: list[_Member] = []
        self._is_fresh = True
        self._idle_seconds = min(resources.idle_seconds, resources.idle_seconds_at_first)
        self._failed_starts = 0
        self._paused_until = 0.0
        self._clock = AttentiveClock(max(_MOST_TICK_SECONDS, resources.heartbeat_timeout / _SIGNS_PER_TIMEOUT))
        self._last_work = self._last_ready = self._clock.now()
        self._next_check = 0.0
        self._pause = min(resources.heartbeat_timeout / _SIGNS_PER_TIMEOUT, _SIGN_SECONDS)
        self._last_loss: dict[str, float] = {}
        """By node: when a worker was lost there last. The node itself may be gone, and the others on it with it."""
        self._last_failed_start: dict[str, float] = {}
        """By node: when one that counts was lost there before it was ready."""
        self._memory = MemoryKills(ray.get_runtime_context().get_node_id())
        self._growth = Growth(resources)
        self._reporter = Reporter(report)
        self.set_aside: list[Task] = []

    @property
    def is_busy(self) -> bool:
        """Whether a worker has an item."""
        return any(member.task for member in self._members)

    def enlarge(self, inbox: Inbox) -> None:
        """Start as many actors as there is work for; all at first while items may still arrive, to be ready."""
        if self._clock.now() < self._paused_until and any(member.is_ready for member in self._members):
            return
        limit = self._resources.num_workers
        if inbox.grows and self._resources.num_while_growing is not None:
            limit = self._resources.num_while_growing
        ready = sum(member.is_ready for member in self._members)
        limit += self._growth.more(ready, len(self._members))
        busy = sum(member.task is not None for member in self._members)
        wanted = limit if inbox.grows and self._is_fresh else min(limit, busy + len(inbox.waiting))
        for _ in range(wanted - len(self._members)):
            actor = start_worker(self._make_worker, self._resources)
            self._members.append(_Member(actor, actor.prepare.remote(), since=self._clock.now()))

    def dispatch(self, inbox: Inbox) -> None:
        """Give an item to every idle actor that lives, as far as is known; after a long time without items, end all
        actors, to free their resources: sooner while none has come yet, as what makes the items may wait for room.
        """
        now = self._clock.now()
        for member in self._members:
            if member.call is None and inbox.waiting and self._is_heard(member, now):
                task = member.task = inbox.waiting.popleft()
                member.call = member.actor.work.remote(task.item, is_given_again=task.is_given_again)
                member.since, member.is_noticed = now, False
                member.samples = 0
        if self.is_busy:
            self._last_work, self._idle_seconds = now, self._resources.idle_seconds
        elif inbox.grows and not inbox.waiting and now - self._last_work > self._idle_seconds:
            self._is_fresh = False
            self.release()

    def _is_heard(self, member: _Member, now: float) -> bool:
        """Whether a worker's last sign of life is recent, and later than the last loss on its node."""
        sign = member.last_sign
        if sign is None or sign < self._last_loss.get(member.node, sign):
            return False
        return now - sign <= _FRESH_SIGNS * max(self._pause, _TICK_SECONDS)

    def wait(self, timeout: float, inbox: Inbox) -> Iterator[tuple[Any, BaseException | None]]:
        """Wait for an actor to be done, ready or lost; yield its result, or the item's error."""
        import ray

        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            time.sleep(timeout)
        else:
            for call in ray.wait(list(calls), num_returns=1, timeout=timeout)[0]:
                yield from self._take(calls[call], inbox)
        self._check_signs(inbox)

    def _take(self, member: _Member, inbox: Inbox) -> Iterator[tuple[Any, BaseException | None]]:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            result = ray.get(member.call)
        except RayTaskError as error:
            error.cause.add_note(str(error))
            if not member.is_ready:
                raise error.cause from None
            yield None, error.cause
        except RayActorError as error:
            self._lose(member, self._reason(member, error), inbox)
            return
        else:
            if member.is_ready:
                yield result, None
        if not member.is_ready:
            self._failed_starts, self._last_ready = 0, self._clock.now()
        member.is_ready, member.call, member.task = True, None, None
        member.last_sign, member.is_noticed = self._clock.now(), False

    def _reason(self, member: _Member, error: BaseException) -> str:
        return describe_loss(error, is_memory=self._memory.has_killed(member.node))

    def _lose(self, member: _Member, reason: str, inbox: Inbox, *, may_be_earlier: bool = False) -> None:
        """Forget a worker; its item goes to another one, unless it has taken down too many.

        ``may_be_earlier``: the worker may have been gone before it was given the item, so that the item is not to blame
        for it; but so often only, since it may be what silences them.
        """
        import ray

        count("corgi_workers_lost")
        self._members.remove(member)
        if member.node:
            self._last_loss[member.node] = self._clock.now()
        ray.kill(member.actor)  # it may live where this process cannot see it
        if (task := member.task) is None:
            _log.warning("a worker was lost while it %s: %s", "waited" if member.is_ready else "started", reason)
            if not member.is_ready and not self._is_of_one_loss(member):
                self._count_failed_start(reason)
            return
        if may_be_earlier and task.num_unheard < self._resources.max_tries:
            task.num_unheard += 1
        else:
            task.losses.append(reason)
        if len(task.losses) < self._resources.max_tries:
            count("corgi_items_retried")
            inbox.waiting.appendleft(task)
            fate = "it goes to another worker"
        else:
            count("corgi_items_set_aside")
            self.set_aside.append(task)
            fate = f"it is set aside, as {len(task.losses)} workers were lost at it"
        _log.warning("a worker was lost at %s (%s): %s", _name(task), reason, fate)

    def _is_of_one_loss(self, member: _Member) -> bool:
        """Whether it was there already when another was lost on its node, which may have taken all on it along."""
        if not member.node:
            return False
        if member.since <= self._last_failed_start.get(member.node, float("-inf")):
            return True
        self._last_failed_start[member.node] = self._clock.now()
        return False

    def _count_failed_start(self, reason: str) -> None:
        """Give up where no worker gets ready; where others are, a node may be at fault: do without it for a while."""
        self._failed_starts += 1
        if self._failed_starts < self._resources.max_tries:
            return
        if not any(member.is_ready for member in self._members):
            raise WorkersLost(
                f"cluster: {self._failed_starts} workers were lost, one after another, before they were ready "
                f"({reason}): correct that, or give the stage more memory, and run again"
            )
        _log.warning("%d workers were lost, one after another, before they were ready: the others go on without more "
                     "for %g s", self._failed_starts, _START_PAUSE)  # fmt: skip
        self._failed_starts, self._paused_until = 0, self._clock.now() + _START_PAUSE

    def _check_signs(self, inbox: Inbox) -> None:
        """Ask all actors for signs of life, and give up those that give none or stand still."""
        now, timeout = self._clock.now(), self._resources.heartbeat_timeout
        if now < self._next_check:
            return
        self._next_check = now + min(_TICK_SECONDS, timeout / _SIGNS_PER_TIMEOUT)
        self._report_missing_room(now)
        self._take_signs(now, inbox)
        here = (member for member in self._members if member.machine)
        self._reporter.note(
            AtWork(one.machine, _name(one.task), one.samples) if one.task else AtWork(one.machine) for one in here
        )
        for member in list(self._members):
            if member.ping is None and self._is_due(member, now):
                member.ping, member.asked = ask_for_sign(member.actor), now
            if member.last_sign is None:
                continue  # Ray tells of an actor that dies before; one that waits for room gives no sign
            patience = timeout if member.is_ready else timeout * _START_PATIENCE
            if now - member.last_sign > patience:
                reason = f"it gave no sign of life for {patience:g} s"
                self._lose(member, reason, inbox, may_be_earlier=member.lived <= member.since)
            elif member.call is not None:
                self._check_pace(member, now - member.since, inbox)

    def _is_due(self, member: _Member, now: float) -> bool:
        sign = member.last_sign
        return sign is None or not member.node or now - sign >= self._pause or not self._is_heard(member, now)

    def _take_signs(self, now: float, inbox: Inbox) -> None:
        """Take in the signs of life that have arrived, and forget idle workers that are gone: no call tells of them."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        asked = {member.ping: member for member in self._members if member.ping is not None}
        for ping in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else ():
            member = asked[ping]
            member.ping = None
            try:
                member.node, kills, member.machine, member.samples = ray.get(ping)
            except RayActorError as error:
                if member.call is None and not isinstance(error, ActorUnavailableError):  # it may be there again
                    self._lose(member, self._reason(member, error), inbox)
                continue
            except RayError:
                pass  # of a process that lives
            else:
                self._memory.note(member.node, kills)
                if member.last_sign is None:
                    member.since = now  # so long it may have waited for room
            member.last_sign, member.lived = now, member.asked

    def _check_pace(self, member: _Member, seconds: float, inbox: Inbox) -> None:
        limit = self._resources.stage_timeout
        if seconds > limit:
            where = f"at {_name(member.task)}" if member.task else "while it starts"
            _log.warning("a worker stands still %s", where, extra={"attachment": stack_of(member.actor)})
            self._lose(member, f"it stood still for {limit:g} s", inbox)
        elif seconds > _NOTICE_FRACTION * limit and not member.is_noticed:
            member.is_noticed = True
            what = f"is at {_name(member.task)}" if member.task else "has been starting"
            _log.warning("a worker %s for %.0f s already; its limit is %g s", what, seconds, limit)

    def _report_missing_room(self, now: float) -> None:
        if not self._members or any(member.last_sign is not None for member in self._members):
            self._last_ready = now
        elif now - self._last_ready > _NO_ROOM_SECONDS:
            self._last_ready = now
            _log.warning(
                "no worker has started for %.0f s: the cluster has no room for one of %g CPUs and %g GPUs now; waiting",
                *(_NO_ROOM_SECONDS, self._resources.num_cpus, self._resources.num_gpus),
            )

    def release(self) -> None:
        """End all actors, whatever they are doing."""
        import ray

        for member in self._members:
            ray.kill(member.actor)
        self._members = []
        self._reporter.close()


def _name(task: Task) -> str:
    return str(getattr(task.item, "name", task.item))[:_MAX_REASON]


def _items_lost(tasks: list[Task]) -> WorkersLost:
    first, names = tasks[0], ", ".join(_name(task) for task in tasks[:10])
    more = f" and {len(tasks) - 10} more" if len(tasks) > 10 else ""
    return WorkersLost(
        f"cluster: {len(tasks)} items took down {len(first.losses)} workers each and were set aside ({names}{more}; "
        f"last: {first.losses[-1]}); all others are done and kept: remove or mend these, or give the stage more "
        "memory, and run again"
    )
