"""A mailbox that any process on the cluster sends to, and a board of the driver that any process reads.

Where the mailbox's process is lost, Ray starts another one and repeats the calls that were under way. What it held is
lost: the messages since the last collection, and the board, which the driver posts again.
"""

import logging
import os
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_log = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Mailbox:
    """Holds messages until they are collected, and the newest notice of each topic."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Any]] = []
        self._board: dict[str, Any] = {}

    def put(self, topic: str, message: Any) -> None:
        self._held.append((topic, message))

    def hold(self) -> None:
        """Do nothing; calls of one process are served in order, so its messages are in when this returns."""

    def take(self) -> tuple[int, list[tuple[str, Any]]]:
        held, self._held = self._held, []
        return os.getpid(), held

    def post(self, topic: str, notice: Any) -> None:
        self._board[topic] = notice

    def poll(self, topic: str) -> Any:
        return self._board.get(topic)


class Sender:
    """Sends messages under one topic; may be pickled into any task or actor of the cluster."""

    def __init__(self, mailbox: "ActorHandle[_Mailbox]", topic: str) -> None:
        self._mailbox = mailbox
        self._topic = topic

    def __call__(self, message: Any) -> None:
        """Send without waiting for the mailbox."""
        self._mailbox.put.remote(self._topic, message)

    def flush(self) -> None:
        """Wait until the mailbox holds all messages of this process."""
        ray.get(self._mailbox.hold.remote())

    def poll(self, topic: str) -> Any:
        """Return what the driver has posted under the topic, or None."""
        return ray.get(self._mailbox.poll.remote(topic))


class Channel:
    """The driver's end of the mailbox, which lies on the driver's own node: no other node can take it down."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = _Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._process: int | None = None
        self._board: dict[str, Any] = {}

    def sender(self, topic: str) -> Sender:
        """Return a sender for one topic."""
        return Sender(self._mailbox, topic)

    def collect(self) -> list[tuple[str, Any]]:
        """Return all (topic, message) pairs since the last call, in order of arrival."""
        process, collected = ray.get(self._mailbox.take.remote())
        if self._process not in (None, process):
            _log.warning("the mailbox's process was lost and is replaced; reports of the last moment may be missing")
            for topic, notice in self._board.items():
                self.post(topic, notice)
        self._process = process
        return list(collected)

    def post(self, topic: str, notice: Any) -> None:
        """Set a topic's notice, which every process with a sender can read."""
        self._board[topic] = notice
        ray.get(self._mailbox.post.remote(topic, notice))
