"""Errors that a stage raises on purpose; the message is what the user reads.

StageError
├── InputFault      the data or files given to the stage cannot be used
├── YieldTooLow     the stage produced less than its configured minimum
└── ArtifactError   an artifact is missing, unfinished, or does not match
"""


class StageError(Exception):
    """Root of the stage layer.

    A message reads: where (stage and key or path): what was found: what is allowed: what to do next.
    """


class InputFault(StageError):
    """The data or files given to the stage cannot be used."""


class YieldTooLow(StageError):
    """The stage produced less than its configured minimum."""


class ArtifactError(StageError):
    """An artifact is missing, unfinished, or does not match what reads it."""
