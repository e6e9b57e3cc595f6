"""A model behind HTTP by Ray Serve: one process takes requests, others compute them in batches.

Ray Serve joins requests that wait into batches, and replaces processes that are lost. What takes requests bounds how
many wait (the others get 429 at once).
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.channel import Channel, Sender
from cluster.embedded import check_head
from cluster.errors import ModelFailed, NotStarted, QueueFull
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
_BATCHES_INSIDE = 4  # of a replica: what is computed or about to be, beside what waits
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


class Backend:
    """The model as the application of a server calls it."""

    def __init__(self, model: Any, most: int) -> None:
        """``most``: requests that are computed or wait at a time."""
        self._model, self._most, self._pending = model, most, 0
        self._seen, self._is_healthy = 0.0, False

    async def compute(self, request: Any) -> Any:
        """Return the model's output for a request, which is computed in a batch with others.

        Raises:
            QueueFull: as many requests wait as may.
            ModelFailed: the batch failed, or there is no process of the model.
        """
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        if self._pending >= self._most:
            raise QueueFull("as many requests wait as may")
        self._pending += 1
        try:
            return await self._model.remote(request)
        except BackPressureError:
            raise QueueFull("as many requests wait as may") from None
        except (RayError, RayServeException) as error:
            raise ModelFailed(f"the model failed ({type(error).__name__})") from None
        finally:
            self._pending -= 1

    async def is_ready(self) -> bool:
        """Return whether Ray Serve finds every process of the model loaded and healthy."""
        now = time.monotonic()
        if now > self._seen + _HEALTHY_SECONDS:
            self._is_healthy = await asyncio.to_thread(_is_healthy)
            self._seen = now
        return self._is_healthy


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

    def __init__(self, make_app: Callable[[Backend], App], model: Any, most: int) -> None:
        _close_rpc_port()
        self._make_app, self._model, self._most = make_app, model, most

    def __serve_build_asgi_app__(self) -> App:
        return self._make_app(Backend(self._model, self._most))


class _Model:
    """What computes batches, on a thread of its own: Ray Serve goes on collecting the next one."""

    def __init__(self, load: Callable[[], Compute], batch_size: int, num_cpus: int, emit: Sender) -> None:
        from ray import serve

        _close_rpc_port()
        use_cpus(num_cpus)
        try:
            self._compute = load()
        except Exception as error:
            emit(error)
            emit.flush()
            raise

        async def batched(requests: list[Any]) -> Sequence[Any]:
            try:
                return await asyncio.to_thread(self._compute, requests)
            except Exception as error:
                emit(f"a batch of {len(requests)} failed ({type(error).__name__}: {error})")
                raise

        self._batched = serve.batch(max_batch_size=batch_size, batch_wait_timeout_s=_WAIT_SECONDS)(batched)

    async def __call__(self, request: Any) -> Any:
        return await self._batched(request)


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
    # Whatever waits does so in the replicas: a router that finds them full tries again after growing pauses, a request
    # or two at a time, and most batches would hold no more.
    computing = options.max_waiting + options.num_replicas * _BATCHES_INSIDE * options.batch_size
    full = BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS)
    common: dict[str, Any] = {
        "backpressure_config": full, "logging_config": quiet, "graceful_shutdown_timeout_s": _DRAIN_SECONDS,
        "max_constructor_retry_count": 1,
    }  # fmt: skip
    model = serve.deployment(
        _Model, name=_MODEL, num_replicas=options.num_replicas, max_ongoing_requests=computing,
        max_queued_requests=options.max_waiting, **common,
        ray_actor_options={"num_cpus": cpus, "num_gpus": min(1.0, machines.num_gpus / options.num_replicas)},
    )  # fmt: skip
    most = computing + _SPARE
    front = serve.deployment(
        serve.ingress()(_Front), name="Front", max_ongoing_requests=most, max_queued_requests=most, **common,
        ray_actor_options={"num_cpus": 0},
    )  # fmt: skip
    try:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port}, logging_config=quiet
        )
        bound = model.bind(load, options.batch_size, cpus, channel.sender(_MODEL))
        serve.run(front.bind(make_app, bound, computing), name=_NAME, route_prefix="/", logging_config=quiet)
    except Exception as error:  # Ray Serve has no type of its own for an application that does not start
        for _, raised in channel.collect():
            raise raised from error
        raise NotStarted(
            f"serve: the server did not start ({str(error).strip().splitlines()[-1]}): end other work on this "
            "machine, check its free memory, and run the same command again"
        ) from error
