"""Submit a command to a Ray cluster as a job, and stream its output."""

import asyncio
import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import Refused, Unreachable

START_SECONDS = 60.0  # a cluster that has just started takes no jobs at first


def submit_job(address: str, command: Sequence[str], package: Path, grace_seconds: float) -> str:
    """Submit a command that runs among the files of a zip, and return the job's id.

    ``grace_seconds`` pass between SIGTERM and SIGKILL where the job is stopped: Ray's default is 3.

    Raises:
        Unreachable: there is no job server at the address, or it wants a token.
        Refused: it takes neither the package nor the command.
    """
    client = _client(address)
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(grace_seconds))}
    environment = {"working_dir": str(package), "env_vars": variables}
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            job: str = client.submit_job(entrypoint=shlex.join(command), runtime_env=environment)
            return job
        except RuntimeError as error:  # Ray's for every status but 200
            cause = " ".join(str(error).split())
            if "try again later" not in cause or time.monotonic() > deadline:
                raise _refused(address, cause) from error
        time.sleep(1.0)


def _refused(address: str, cause: str) -> Refused:
    remedy = "the package is too large for it: leave more files out" if "413" in cause else "see the server's log"
    return Refused(f"--address: Ray's job server at {address!r} refused the job ({cause[:200]}): {remedy}")


def follow_job(address: str, job: str, echo: Callable[[str], None]) -> str:
    """Echo the job's output until it ends, and return its final status.

    Raises:
        KeyboardInterrupt: with words on the job, which goes on without this process.
    """
    client = _client(address)

    async def follow() -> None:
        async for text in client.tail_job_logs(job):
            echo(text)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        options = f"--address {shlex.quote(address)} {job}"
        raise KeyboardInterrupt(
            f"job {job} goes on: follow it by `ray job logs --follow {options}`, stop it by `ray job stop {options}`"
        ) from None
    return str(client.get_job_status(job).value)


def _client(address: str) -> Any:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unreachable(
            f"--address: no Ray job server can be used at {address!r} ({cause}): give the dashboard's address, such as "
            "http://127.0.0.1:8265, and, if the cluster requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
