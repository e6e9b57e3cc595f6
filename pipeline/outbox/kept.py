"""The outbox of a run: opened beside the run, or later, to send what was kept."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.heartbeat import life_of
from pipeline.leases import LeaseTimes
from pipeline.outbox.delivery import Delivery, Target
from pipeline.outbox.operations import Operation, to_line
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns, RunRecord
from pipeline.store import Store
from pipeline.summary import register_model
from pipeline.tracking_address import default_tracking_uri, recorded_address
from stages.contract.secrets import redact_addresses
from stages.contract.texts import one_line

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker

LOCK_SECONDS = 10  # a driver that was just killed may hold its lock for a moment longer


class Driven(UsageError):
    """Another process drives the run, or sends its records."""


@contextlib.contextmanager
def sole_sender(store: Store, run: str) -> Iterator[None]:
    """Keep a second process of this machine from sending the same run's records."""
    path = store.local_base / "locks" / f"tracking-{run}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise Driven(
            f"run {run}: another corgi process sends its records ({path} is locked); wait for it, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def has_kept(store: Store, run: str) -> bool:
    """Return whether the store holds records of the run that its tracking server did not take yet."""
    return bool(store.tracking_folder(run).glob("*.jsonl"))


def start_delivery(
    record: RunRecord,
    store: Store,
    uri: str,
    config: RunConfig | None,
    report: Callable[[str], None],
    *,
    missed: Sequence[Operation] = (),
) -> Delivery:
    """Begin to send what a run records, and first what is kept of it; the record has the runs to go on in.

    ``config`` is that of the run; None: what the record has of it, which is read where it is needed. What an earlier
    start has ``missed`` is kept before the record is written, which says no more then that anything is missing.
    """
    spool = Spool(store.tracking_folder(record.run))
    for operation in missed:
        spool.put(to_line(operation))
    if missed:
        spool.keep(0.0)
    record.mlflow = MlflowRuns.at(recorded_address(uri), record.mlflow)
    store.write_run(record)  # a driver that is killed now goes on in the runs that the server is about to make
    tracking = record.config.get("tracking")
    experiment = str(tracking.get("experiment", "corgi") if isinstance(tracking, Mapping) else "corgi")
    register = partial(_register, record=record, store=store, config=config)
    target = Target(uri, experiment, record.run, register)
    return Delivery(spool, target, record.mlflow, report).start()


def _register(tracker: "RunTracker", *, record: RunRecord, store: Store, config: RunConfig | None) -> None:
    try:
        whole = config or RunConfig.model_validate(record.config)
    except ValidationError as error:
        raise UsageError(
            f"run {record.run}: its model cannot be registered by its record ({one_line(error, 200)}): run its config "
            "again"
        ) from None
    register_model(tracker, whole, record, store)


def runs_to_send(store: Store, name: str | None) -> list[RunRecord]:
    """Return the run of this name, or all those of which something is kept and which no process drives now."""
    if name is None:
        return [one for one in store.runs() if has_kept(store, one.run) and life_of(one, store).status != "running"]
    record = store.find_run(name)
    if life_of(record, store).status == "running":
        raise UsageError(f"run {record.run}: is running, and sends its records itself; wait for its end")
    return [record]


def send_kept(
    run: str, store: Store, uri: str | None, patience: float, report: Callable[[str], None]
) -> tuple[RunRecord, int, int]:
    """Send what is kept of a run that is over; return its record, and how many lines were sent, and how many are left.

    It goes where the run recorded, or to ``uri``. The run's lease is held meanwhile: a driver that starts it, on
    whatever machine, waits for this.

    Raises:
        Driven: another process is at it.
        UsageError: the address is wrong, or no one who may write there.
    """
    with _lease_of(run, store, report), sole_sender(store, run):
        record = store.read_run(run)  # as it is now, where a driver was at it until then
        if record is None:
            raise UsageError(f"run {run}: has no record in the store {redact_addresses(store.uri)} any more")
        address = uri or (record.mlflow.tracking_uri if record.mlflow else default_tracking_uri(store.local_root))
        waiting = Spool(store.tracking_folder(run)).count()
        delivery = start_delivery(record, store, address, None, report)
        try:
            delivery.await_first()
        except KeyboardInterrupt:
            delivery.hurry()
            raise
        finally:
            left = delivery.close(patience)
            record.mlflow = delivery.runs
            store.write_run(record)
    return record, waiting - left, left


@contextlib.contextmanager
def _lease_of(run: str, store: Store, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease of a run; Driven: another process does so, and goes on with it."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.leasing(run, [], LeaseTimes(wait=0), report))
        except UsageError as error:
            found = str(error).partition(": run again")[0]
            raise Driven(f"{found}: wait for its end, or end it; it sends itself what was kept of the run") from None
        yield


def describe_kept(left: int, record: RunRecord, store: Store) -> str:
    """Return what is to be done about records that are kept."""
    address = record.mlflow.tracking_uri if record.mlflow is not None else ""
    where = redact_addresses(store.uri)
    return (
        f"tracking: {left} records could not be sent to {address} and are kept in the store: the next start of this "
        f"run sends them, or `corgi track {record.run} --store {where}`"
    )
