"""A mailbox that any process on the cluster sends to, and a board of the driver that any process reads.

Where the mailbox's process is lost, or gives no reply, the driver starts another one under its name, posts the board
again, and senders find it by the name. What it held is lost: the messages since the last collection.

Ray could start it again by itself (max_restarts). But of the processes on a machine that is out of memory, Ray's
monitor takes those first that may be started again; of the others the youngest, and the mailbox is the oldest.
"""

import contextlib
import logging
import time
import uuid
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_REPLY_SECONDS = 60.0  # for a mailbox to reply, after which it counts as lost
_REPLACED_SECONDS = 300.0  # for a lost mailbox to be there again, on a machine that is short of memory
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)


@ray.remote(num_cpus=0)
class _Mailbox:
    """Holds messages until they are collected, and the newest notice of each topic."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Any]] = []
        self._board: dict[str, Any] = {}

    def put(self, topic: str, message: Any) -> None:
        self._held.append((topic, message))

    def hold(self) -> None:
        """Do nothing; calls of one process are served in order, so its messages are in when this returns."""

    def take(self) -> list[tuple[str, Any]]:
        held, self._held = self._held, []
        return held

    def post(self, notices: dict[str, Any]) -> None:
        self._board |= notices

    def poll(self, topics: tuple[str, ...]) -> dict[str, Any]:
        return {topic: self._board.get(topic) for topic in topics}


class Sender:
    """Sends messages under one topic; may be pickled into any task or actor of the cluster."""

    def __init__(self, name: str, mailbox: "ActorHandle[_Mailbox]", topic: str, reply_seconds: float) -> None:
        self._name, self._reply_seconds = name, reply_seconds
        self._mailbox = mailbox
        self._topic = topic
        self._last: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return self.__dict__ | {"_last": None}

    def __call__(self, message: Any) -> None:
        """Send without waiting for the mailbox; the message before is sent again where it did not arrive."""
        if self._is_last_lost():
            self._renew()
        self._last = self._mailbox.put.remote(self._topic, message), message

    def flush(self) -> None:
        """Wait until the mailbox holds all messages of this process."""
        self._call("hold")

    def poll(self, topic: str) -> Any:
        """Return what the driver has posted under the topic, or None."""
        return self.poll_all((topic,))[topic]

    def poll_all(self, topics: tuple[str, ...]) -> dict[str, Any]:
        """Return what the driver has posted under each of the topics, or None."""
        found: dict[str, Any] = self._call("poll", topics)
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        until = time.monotonic() + _REPLY_SECONDS + _REPLACED_SECONDS
        while True:
            try:
                return ray.get(getattr(self._mailbox, method).remote(*arguments), timeout=self._reply_seconds)
            except (RayActorError, GetTimeoutError):
                if time.monotonic() > until:
                    raise
            time.sleep(_POLL_SECONDS)
            self._renew()

    def _renew(self) -> None:
        """Use the mailbox that is there now, and send it the last message, where that was lost."""
        is_lost = self._is_last_lost()
        with contextlib.suppress(ValueError):  # there is none yet
            self._mailbox = ray.get_actor(self._name)
            if is_lost and self._last is not None:
                message = self._last[1]
                self._last = self._mailbox.put.remote(self._topic, message), message

    def _is_last_lost(self) -> bool:
        if self._last is None or not ray.wait([self._last[0]], timeout=0)[0]:
            return False
        try:
            ray.get(self._last[0])
        except RayActorError:
            return True
        return False


class Channel:
    """The driver's end of the mailbox, which lies on the driver's own node: no other node can take it down."""

    def __init__(self, reply_seconds: float = _REPLY_SECONDS) -> None:
        """Start the mailbox; one that gives no reply for so many seconds is replaced."""
        self._reply_seconds = reply_seconds
        self._name = f"corgi-mailbox-{uuid.uuid4().hex}"
        self._board: dict[str, Any] = {}
        self._start()

    def sender(self, topic: str) -> Sender:
        """Return a sender for one topic."""
        return Sender(self._name, self._mailbox, topic, self._reply_seconds)

    def collect(self) -> list[tuple[str, Any]]:
        """Return all (topic, message) pairs since the last call, in order of arrival."""
        collected: list[tuple[str, Any]] = self._call("take")
        return collected

    def post(self, topic: str, notice: Any) -> None:
        """Set a topic's notice, which every process with a sender can read."""
        self._board[topic] = notice
        self._call("post", {topic: notice})

    def _start(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = _Mailbox.options(name=self._name, scheduling_strategy=here).remote()  # type: ignore[attr-defined]

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return self._ask(method, *arguments)
        except RayActorError:
            _log.warning("the mailbox's process was lost and is replaced; reports of the last moment may be missing")
        except GetTimeoutError:
            _log.warning("the mailbox's process has not replied for %g s and is replaced; what it held is missing",
                         self._reply_seconds)  # fmt: skip
        until, is_started = time.monotonic() + _REPLACED_SECONDS, False
        while True:
            try:
                if not is_started:
                    # Else Ray keeps the name of an actor whose process is gone, this one's or that of its replacement.
                    ray.kill(self._mailbox)
                    self._start()
                    is_started = True
                self._ask("post", self._board)
                return self._ask(method, *arguments)
            except (RayActorError, GetTimeoutError, ValueError) as error:  # the name is free only a moment after
                if time.monotonic() > until:
                    raise
                is_started = isinstance(error, GetTimeoutError)  # it is still starting
            time.sleep(_POLL_SECONDS)

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._mailbox, method).remote(*arguments), timeout=self._reply_seconds)
