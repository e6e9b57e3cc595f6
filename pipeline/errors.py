"""Errors of the pipeline layer, each with the exit code that the command line gives it.

PipelineError       exit 3
├── UsageError      exit 2  a wrong config, argument, path or address: nothing was started
└── Interrupted     exit 130  the user ended it; what was finished is kept
"""

from typing import ClassVar


class PipelineError(Exception):
    """Root of the pipeline layer; the message is what the user reads."""

    exit_code: ClassVar[int] = 3


class UsageError(PipelineError):
    """A wrong config, argument, path or address: nothing was started."""

    exit_code: ClassVar[int] = 2


class Interrupted(PipelineError):
    """The user ended it; what was finished is kept."""

    exit_code: ClassVar[int] = 130
