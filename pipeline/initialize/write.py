"""Write a file that is not there yet."""

from pathlib import Path

from pipeline.errors import UsageError
from stages.contract.parsing import shown
from stages.storage import publishing


def write_new(file: Path, text: str) -> None:
    """Write a text to a new file.

    Raises:
        UsageError: there is one already, or it cannot be written.
    """
    try:
        is_new = publishing.write_new(file, text.encode())
    except OSError as error:
        raise UsageError(f"init: {shown(file)} cannot be written ({error.strerror}): give another --out") from None
    if not is_new:
        raise UsageError(f"init: {shown(file)} is there already, and is left as it is: give another --out")
