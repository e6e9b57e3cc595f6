"""Numbers that environment variables of this program hold: those that carry a setting to a run's processes."""

import os

from stages.contract.errors import InputFault
from stages.contract.parsing import shown


def number_in_environment(variable: str, *, most: float) -> float | None:
    """Return the number that a variable holds; None: it is not set.

    Raises:
        InputFault: it holds no number, or one that no setting takes.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= most:
        raise InputFault(
            f"{variable}: found {shown(text)!r} in the environment: expected a number from 0 to {most:g}: correct it, "
            "or unset it"
        )
    return number
