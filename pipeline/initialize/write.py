"""Write a file that is not there yet."""

from pathlib import Path

from pipeline.errors import UsageError
from stages.contract.parsing import shown


def write_new(file: Path, text: str) -> None:
    """Write a text to a new file.

    Raises:
        UsageError: there is one already, or it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(f"init: {shown(file)} is there already, and is left as it is: give another --out") from None
    except OSError as error:
        raise UsageError(f"init: {shown(file)} cannot be written ({error.strerror}): give another --out") from None
