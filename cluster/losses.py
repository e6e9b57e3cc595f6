"""Why Ray lost a process, in a sentence; one that was killed for memory is reported as that, with what to change."""

import re
from pathlib import Path

_MOST = 300  # characters
_COUNTERS = (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill"))
#: How Ray names a training process, and in which words it says of any process how that ended; advice follows.
_RANK = re.compile(
    r"Worker info: Worker\(.*?node_ip='(?P<node>[^']*)', pid=(?P<pid>\d+).*?world_rank=(?P<rank>\d+)"
    r".*?log_file_path=[^)]*\) ?"
)
_EXIT = re.compile(r"Worker exit detail: (?P<detail>.*?)(?= Some common causes| There are some potential|$)")
MEMORY = (
    "lower resources.num_workers, which run side by side, or raise resources.cpus_per_worker, so that fewer fit on a "
    "machine; in training, a smaller batch_size per worker (gradient_accumulation) takes less"
)


def describe_loss(error: BaseException | str, *, is_memory: bool = False) -> str:
    """Return the reason in a line.

    ``is_memory``: the system has killed a process for memory on that machine meanwhile. It leaves no word for Ray,
    which then tells of a closed connection.
    """
    from ray.exceptions import OutOfMemoryError

    text = " ".join(str(error).split())
    of_ray = isinstance(error, OutOfMemoryError) or any(
        words in text for words in ("OutOfMemory", "NODE_OUT_OF_MEMORY", "memory monitor", "running low on memory")
    )
    if of_ray:
        return f"its machine ran out of memory, and Ray ended the process: {MEMORY}"
    if is_memory:
        return f"the system ended a process for memory meanwhile, probably this one: {MEMORY}"
    return _without_noise(text)[:_MOST]


def _without_noise(text: str) -> str:
    """Return which process was lost, and how it ended, in place of all that Ray knows of it: that is cut too early."""
    rank, ended = _RANK.search(text), _EXIT.search(text)
    who = f"rank {rank['rank']}, process {rank['pid']} on {rank['node']}: " if rank else ""
    if ended:
        return f"{who}it was killed, or has crashed ({ended['detail'].strip().rstrip('.')})"
    return who + text[rank.end() :] if rank else text


def memory_kills() -> int:
    """Return how many processes the system has killed for memory: in this container, else on this machine."""
    for path, name in _COUNTERS:
        try:
            lines = Path(path).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


class StartsInVain:
    """How many starts of a group that lost a process did not get further, one after another.

    A start may begin further back than the one before ended, where what that one kept is damaged: it is measured from
    there. That may happen again and again while each start gets further, so these falls count for good.
    """

    def __init__(self, reached: int) -> None:
        self._reached = reached
        self._count = self._falls = 0

    def note(self, now: int) -> int:
        """Take in how far the next start would begin, and return the number."""
        self._falls += now < self._reached
        self._count = self._falls if now > self._reached else self._count + 1
        self._reached = now
        return self._count


class MemoryKills:
    """How many processes the system has killed for memory on each node, as far as their signs of life tell."""

    def __init__(self, here: str) -> None:
        self._here = here
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def note(self, node: str, kills: int) -> None:
        """Take in what a process on the node has counted."""
        self._before.setdefault(node, kills)
        self._now[node] = kills

    def has_killed(self, node: str) -> bool:
        """Return whether there were any since the last call; this machine is asked once more."""
        if node == self._here:
            self.note(node, memory_kills())
        before, self._before[node] = self._before.get(node, 0), self._now.get(node, 0)
        return self._now.get(node, 0) > before
