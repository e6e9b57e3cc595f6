"""A model behind HTTP by Ray Serve: one process takes requests, others compute them in batches.

What takes requests bounds how many wait (the others get 429 at once) and joins them into batches; Ray Serve brings
those to the processes of the model, and replaces processes that are lost.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

from cluster.channel import Channel, Sender
from cluster.errors import ModelFailed, NotStarted, QueueFull
from cluster.head import check_head
from cluster.machines import Machines
from cluster.session import session
from cluster.training import use_cpus

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application."""
Compute = Callable[[Sequence[Any]], Sequence[Any]]
"""Returns an output for each request of a batch."""

RETRY_SECONDS: Final = 1.0  # after which a client that got 429 may ask again
_NAME, _MODEL = "corgi", "Model"
_WAIT_SECONDS = 0.02  # for a batch that is not full
_SPARE = 64  # requests for pages and health beside those for the model
_DRAIN_SECONDS = 10.0  # for what is being computed when the server ends
_HEALTHY_SECONDS = 1.0  # for which a state is believed


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen, how many requests a batch holds, how many may wait, and who computes them."""

    host: str
    port: int
    batch_size: int
    max_waiting: int
    num_replicas: int = 1

    @property
    def most(self) -> int:
        """Requests that are computed or wait at a time."""
        return self.max_waiting + self.num_replicas * self.batch_size


@dataclass(eq=False)
class _Asked:
    """A request that waits or is computed, and where its output goes."""

    request: Any
    output: asyncio.Future[Any]
    was_lost: bool = False
    """Whether a process was lost that was to compute it."""


class Backend:
    """The model as the application of a server calls it.

    What waits does so here, and each replica gets a batch when it has none: a router that chose a replica for every
    request would find them full and try again after growing pauses, and most batches would hold a few.
    """

    def __init__(self, model: Any, options: ServeOptions) -> None:
        self._model, self._options = model, options
        self._waiting: deque[_Asked] = deque()
        self._pending = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._seen, self._is_healthy = 0.0, False

    async def compute(self, request: Any) -> Any:
        """Return the model's output for a request, which is computed in a batch with others.

        Raises:
            QueueFull: as many requests wait as may.
            ModelFailed: the batch failed, or there is no process of the model.
        """
        if self._pending >= self._options.most:
            raise QueueFull("as many requests wait as may")
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if len(self._senders) < self._options.num_replicas:
            # Not in this request's context: when its client goes, Ray Serve cancels all calls that were made there.
            self._senders.add(asyncio.create_task(self._send(), context=Context()))
        self._pending += 1
        try:
            return await asked.output
        finally:
            self._pending -= 1

    async def _send(self) -> None:
        """Give batch after batch to a replica, until nothing waits."""
        try:
            while self._waiting:
                if len(self._waiting) < self._options.batch_size:
                    await asyncio.sleep(_WAIT_SECONDS)
                if batch := self._next_batch():
                    await self._compute(batch)
        finally:  # at once: what comes before the loop runs callbacks would wait for this one
            self._senders -= {asyncio.current_task()}

    def _next_batch(self) -> list["_Asked"]:
        """Take what waits longest; without the requests of clients that have gone."""
        batch: list[_Asked] = []
        while self._waiting and len(batch) < self._options.batch_size:
            asked = self._waiting.popleft()
            if not asked.output.done():
                batch.append(asked)
        return batch

    async def _compute(self, batch: list["_Asked"]) -> None:
        try:
            outputs: Sequence[Any] = await self._model.remote([asked.request for asked in batch])
        except Exception as error:  # noqa: BLE001  of Ray or the model: clients get an answer
            batch = self._put_back(batch) if _is_loss(error) else batch
            outputs = [ModelFailed(f"the model failed ({type(error).__name__})")] * len(batch)
        for asked, output in zip(batch, outputs, strict=True):
            if asked.output.done():
                continue
            if isinstance(output, ModelFailed):
                asked.output.set_exception(output)
            else:
                asked.output.set_result(output)

    def _put_back(self, batch: list["_Asked"]) -> list["_Asked"]:
        """Let requests whose process was lost wait again, the first time; return the others.

        A request that ends its process does so twice at most.
        """
        again = [asked for asked in batch if not asked.was_lost]
        for asked in reversed(again):
            asked.was_lost = True
            self._waiting.appendleft(asked)
        return [asked for asked in batch if asked not in again]

    async def is_ready(self) -> bool:
        """Return whether Ray Serve finds every process of the model loaded and healthy."""
        now = time.monotonic()
        if now > self._seen + _HEALTHY_SECONDS:
            self._is_healthy = await asyncio.to_thread(_is_healthy)
            self._seen = now
        return self._is_healthy


def _is_loss(error: Exception) -> bool:
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError)


def _is_healthy() -> bool:
    from ray import serve

    found = serve.status().applications.get(_NAME)
    model = None if found is None else found.deployments.get(_MODEL)
    return model is not None and model.status == "HEALTHY"


def _close_rpc_port() -> None:
    """Keep Ray Serve from opening a port on all interfaces, in this replica, that unpickles what anyone sends.

    Its calls by gRPC would come there; ours are calls of actors, as is its default. It opens the port after the
    replica's constructor.
    """
    from ray.serve._private import replica

    replica.add_port_to_grpc_server = lambda server, address: 0


class _Front:
    """What takes requests; Ray Serve makes the application in this one's process."""

    def __init__(self, make_app: Callable[[Backend], App], model: Any, options: ServeOptions) -> None:
        _close_rpc_port()
        self._make_app, self._backend = make_app, Backend(model, options)

    def __serve_build_asgi_app__(self) -> App:
        return self._make_app(self._backend)


class _Model:
    """What computes batches, on a thread of its own: this process goes on answering Ray Serve."""

    def __init__(self, load: Callable[[], Compute], num_cpus: int, emit: Sender) -> None:
        _close_rpc_port()
        use_cpus(num_cpus)
        self._emit = emit
        try:
            self._compute = load()
        except Exception as error:
            emit(error)
            emit.flush()
            raise

    async def __call__(self, requests: list[Any]) -> Sequence[Any]:
        try:
            outputs = await asyncio.to_thread(self._compute, requests)
            if len(outputs) != len(requests):
                raise ValueError(f"found {len(outputs)} outputs: expected one per request, {len(requests)}")
            return outputs
        except Exception as error:
            self._emit(f"a batch of {len(requests)} failed ({type(error).__name__}: {error})")
            raise


@contextlib.contextmanager
def serving(
    make_app: Callable[[Backend], App], load: Callable[[], Compute], options: ServeOptions
) -> Iterator[Callable[[], list[str]]]:
    """Serve an application until the end of the block, by a Ray of this process's own, which ends with it.

    Yields a function that returns what failed since its last call.

    ``load`` is called in each of the model's processes, ``make_app`` in the one that takes requests; both are pickled.
    What is being computed at the end is finished within seconds; what waits is given up.

    Raises:
        NotStarted: Ray or the server does not start on this machine.
        Exception: what ``load`` raised.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for work that nobody waits for
    os.environ["RAY_SERVE_USE_GRPC_BY_DEFAULT"] = "0"  # whose ports are closed here
    with session(None) as machines:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        channel = Channel()
        try:
            _start(make_app, load, options, machines, channel)
            yield lambda: [str(fault) for _, fault in channel.collect()]
        finally:
            check_head()  # without it, calls of Ray wait for ever
            serve.delete(_NAME)  # what is computed is finished; Ray Serve itself ends with Ray


def _start(
    make_app: Callable[[Backend], App],
    load: Callable[[], Compute],
    options: ServeOptions,
    machines: Machines,
    channel: Channel,
) -> None:
    from ray import serve
    from ray.serve.config import BackpressureConfig
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    cpus = max(1, machines.num_cpus // options.num_replicas)
    full = BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS)
    common: dict[str, Any] = {
        "backpressure_config": full, "logging_config": quiet, "graceful_shutdown_timeout_s": _DRAIN_SECONDS,
        "max_constructor_retry_count": 1,
    }  # fmt: skip
    model = serve.deployment(
        _Model, name=_MODEL, num_replicas=options.num_replicas, max_ongoing_requests=1, **common,
        ray_actor_options={"num_cpus": cpus, "num_gpus": min(1.0, machines.num_gpus / options.num_replicas)},
    )  # fmt: skip
    most = options.most + _SPARE
    front = serve.deployment(
        serve.ingress()(_Front), name="Front", max_ongoing_requests=most, max_queued_requests=most, **common,
        ray_actor_options={"num_cpus": 0},
    )  # fmt: skip
    try:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port}, logging_config=quiet
        )
        bound = model.bind(load, cpus, channel.sender(_MODEL))
        serve.run(front.bind(make_app, bound, options), name=_NAME, route_prefix="/", logging_config=quiet)
    except Exception as error:  # Ray Serve has no type of its own for an application that does not start
        for _, raised in channel.collect():
            raise raised from error
        raise NotStarted(
            f"serve: the server did not start ({str(error).strip().splitlines()[-1]}): end other work on this "
            "machine, check its free memory, and run the same command again"
        ) from error
