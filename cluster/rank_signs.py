"""What the ranks of a training group say of themselves, and what follows when one falls silent or stands still."""

import functools
import logging
from dataclasses import dataclass, field

from cluster.attention import AttentiveClock
from cluster.channel import Channel
from cluster.losses import MemoryKills
from cluster.rank_link import REPLACE, Sign
from cluster.training import TrainGroup
from cluster.workers import AtWork

_NOTICE_FRACTION = 0.5  # of the time without a step, after which it is reported
_MOST_TICK_SECONDS = 5.0  # a longer one, by the clock of silence, is that of a paused machine
_log = logging.getLogger(__name__)


@dataclass
class _Rank:
    sign: Sign
    heard: float
    """When its last sign arrived."""
    stepped: float
    """When a sign first held its present number of steps."""
    is_noticed: bool = False


@dataclass
class RankSigns:
    """The newest sign of each rank; a group that takes no step for ``stage_timeout`` is asked to show and to end."""

    group: TrainGroup
    channel: Channel
    memory: MemoryKills
    _ranks: dict[int, _Rank] = field(default_factory=dict)
    _still_noticed: bool = False
    _replaced: bool = False
    _clock: AttentiveClock = field(default_factory=functools.partial(AttentiveClock, _MOST_TICK_SECONDS))

    def note(self, sign: Sign) -> None:
        """Take in a sign."""
        self.memory.note(sign.node, sign.memory_kills)
        now, known = self._clock.now(), self._ranks.get(sign.rank)
        if known is None or known.sign.steps != sign.steps:
            self._ranks[sign.rank] = _Rank(sign, now, now)
            self._still_noticed = False
        else:
            known.heard, known.is_noticed = now, False

    def machines(self) -> list[AtWork]:
        """Return the machine and the name of each rank that has given a sign."""
        return [AtWork(known.sign.machine, f"rank {rank}") for rank, known in sorted(self._ranks.items())]

    def note_stack(self, rank: int, stack: str) -> None:
        """Keep the stack of a rank that stands still."""
        _log.warning("rank %d stands still", rank, extra={"attachment": stack})

    def check(self) -> None:
        """Report ranks that have fallen silent, and a group that stands still, which is then to end."""
        now = self._clock.now()
        for rank in self._ranks.values():
            silent = now - rank.heard
            if silent > self.group.heartbeat_timeout and not rank.is_noticed:
                rank.is_noticed = True
                _log.warning(
                    "rank %d (process %d, node %s) gave no sign of life for %.0f s: the group waits for it",
                    *(rank.sign.rank, rank.sign.pid, rank.sign.node[:8], silent),
                )
        if not self._ranks:
            return
        limit, still = self.group.stage_timeout, now - max(rank.stepped for rank in self._ranks.values())
        if still > limit and not self._replaced:
            self._replaced = True
            _log.warning("training stands still for %.0f s: its processes show their stacks and are replaced", still)
            self.channel.post(REPLACE, True)
        elif still > _NOTICE_FRACTION * limit and not self._still_noticed:
            self._still_noticed = True
            _log.warning("training took no step for %.0f s; its limit (resources.stage_timeout) is %g s", still, limit)
