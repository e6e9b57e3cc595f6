"""Errors that a stage raises on purpose; the message is what the user reads.

StageError
├── InputFault      the data or files given to the stage cannot be used
├── YieldTooLow     the stage produced less than its configured minimum
├── InputLost       an upstream stage, whose units this one streams, has failed
├── ArtifactError   an artifact is missing, unfinished, or does not match
└── ItemFault       one item is lost, for a cause that is counted (:mod:`stages.contract.causes`)
"""

import difflib
from collections.abc import Iterable


class StageError(Exception):
    """Root of the stage layer.

    A message reads: where (stage and key or path): what was found: what is allowed: what to do next.
    """


class InputFault(StageError):
    """The data or files given to the stage cannot be used."""


class YieldTooLow(StageError):
    """The stage produced less than its configured minimum."""


class InputLost(StageError):
    """An upstream stage, whose units this one streams, has failed."""


class ArtifactError(StageError):
    """An artifact is missing, unfinished, or does not match what reads it."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ' (nearest: ...)' with the choices that look most like the word, for a message; or nothing."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(lowered[name] for name in near)})" if near else ""
