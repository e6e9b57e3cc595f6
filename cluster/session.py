"""Connect this process to Ray: started inside it (on a laptop), or an existing cluster by its address."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cluster.authentication import TOKEN_REMEDY, check_authentication, host_of, is_port, token_fault
from cluster.embedded import embedded_ray, forget_embedded_ray
from cluster.errors import HeadLost, Unreachable
from cluster.head import Contact
from cluster.machines import Machines, machines_now
from cluster.owned_folders import sweep_scratch
from cluster.signals import keeping_handlers, signals_held_back
from cluster.training import forget_launchers

_CLIENT = "ray://"
_JOB_FOLDERS = "working_dir_files"  # Ray's name for the folder of the folders of jobs


def existing_address(configured: str | None) -> str | None:
    """Return the address of the cluster to use, or None to start Ray inside this process."""
    return configured or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def session(
    address: str | None, num_cpus: int | None = None, allow_unauthenticated: bool = False
) -> Iterator[Machines]:
    """Connect to Ray for the length of the block; within another session's block, that connection is used.

    No runtime environment is given: Ray writes its variables into logs and shows them on its dashboard.

    Raises:
        Unreachable: nothing responds at the address.
        NotStarted: Ray does not start on this machine.
        Unauthenticated: the cluster at the address takes commands from anyone.
        HeadLost: a process is gone without which this Ray cannot go on; the block was interrupted.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    forget_launchers()
    if address is None:
        try:
            with embedded_ray(num_cpus):
                yield machines_now()
        finally:
            sweep_scratch()
        return
    import ray

    if ray.is_initialized():
        yield machines_now()
        return
    try:
        _connect(address)
        named = address if host_of(address) else ray.get_runtime_context().gcs_address  # 'auto' found one
        check_cluster(named, allow_unauthenticated)
        by_client = address.startswith(_CLIENT)  # which talks to Ray's client server alone
        contact = Contact(address.removeprefix(_CLIENT) if by_client else ray.get_runtime_context().gcs_address)
        with contact.watched():
            try:
                yield machines_now()
            except KeyboardInterrupt:
                contact.check()
                raise
    except HeadLost:
        raise  # Ray waits for its head in all that it does, also at its own end
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()
    finally:
        sweep_scratch()


def _connect(address: str) -> None:
    import ray

    forget_embedded_ray()
    try:
        check_reachable(address)
        with signals_held_back(), keeping_handlers():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if host_of(address) and (fault := token_fault(address)):
            raise Unreachable(f"cluster.address: the Ray cluster at {address!r} {fault}: {TOKEN_REMEDY}") from error
        raise _unreachable(address, str(error)) from error


def job_folder() -> Path | None:
    """Return the folder of the files that came with this process's Ray job, which lives no longer than the job."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if folder.parent.name == _JOB_FOLDERS), None)


def this_machine(num_cpus: int | None = None) -> Machines | None:
    """Return the resources of a Ray started here, or None if only Ray itself can find them (GPUs)."""
    cpus = num_cpus or os.cpu_count() or 1
    return None if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists() else Machines(cpus, 0, cpus)


def check_reachable(address: str) -> None:
    """Fail within seconds, where Ray's own connection would try for a minute."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or not is_port(port):
        return  # 'auto' and the like: Ray searches for a cluster on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:  # a name or a port that no host has
        raise _unreachable(address, str(error)) from error


def check_cluster(address: str, allow_unauthenticated: bool) -> None:
    """Refuse a cluster that anyone may use, unless the user allows it."""
    option = "cluster.allow_unauthenticated: true"
    check_authentication(address, allowed=allow_unauthenticated, where="cluster.address", option=option)


def _unreachable(address: str, cause: str) -> Unreachable:
    return Unreachable(
        f"cluster.address: no Ray cluster responds at {address!r} ({cause.splitlines()[0]}): "
        "start one with `ray start --head`, correct the address, or leave it out to run on this machine"
    )
