"""Errors of the pipeline layer, each with the exit code that the command line gives it.

PipelineError       exit 3
├── UsageError      exit 2  a wrong config, argument, path or address: nothing was started
├── Superseded      exit 4  another driver has taken over what this one was making
└── Interrupted     exit 130  Ctrl-C ended it; 143: SIGTERM; 129: SIGHUP; what was finished is kept
"""

import errno
import os
from pathlib import Path

from stages.contract.secrets import redact

_CODES = (errno.ENOSPC, errno.EDQUOT)
_FULL = tuple(os.strerror(code) for code in _CODES)


class PipelineError(Exception):
    """Root of the pipeline layer; the message is what the user reads, with secrets that libraries quote masked."""

    exit_code: int = 3

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(PipelineError):
    """A wrong config, argument, path or address: nothing was started."""

    exit_code: int = 2


class Superseded(PipelineError):
    """Another driver has taken over what this one was making."""

    exit_code: int = 4


class Interrupted(PipelineError):
    """A signal ended it; what was finished is kept."""

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def full_disk(error: BaseException) -> str | None:
    """Return what to do where a disk is full, whichever library found it; None: it is another fault."""
    if not any(words in str(error) for words in _FULL):
        return None
    where = _full_folder(error) or (
        "where the store is, its cache of remote files (storage.cache), and temporary files (TMPDIR, Ray's)"
    )
    return f"a disk is full ({error}): make room {where}, then run the same again: what is finished is kept"


def _full_folder(error: BaseException | None) -> str | None:
    """Return where the disk is full, if this error or the one that it comes from names a file there."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CODES and isinstance(error.filename, str) and error.filename:
            return f"on the disk of {Path(error.filename).absolute().parent}"
        error = error.__cause__ or error.__context__
    return None


def exit_code_of(error: BaseException) -> int | None:
    """Return the exit code of an error that is reported in a sentence; None: it is a fault of this program.

    What is refused (InputFault) is the user's to correct, and ends with 2, whether a stage has begun or not.
    """
    from cluster.errors import ClusterError, HeadLost
    from stages.contract.errors import InputFault, StageError

    if isinstance(error, PipelineError):
        return error.exit_code
    if isinstance(error, InputFault):
        return 2
    if isinstance(error, StageError | HeadLost):
        return 3
    return 2 if isinstance(error, ClusterError) else None
