"""The longest times and largest sizes that a setting may ask for: clocks, sockets and disks have ends of their own."""

from typing import Annotated, Final

from pydantic import Field

LONGEST_REQUEST: Final = 86_400.0  # seconds of one step, such as a reply: a day; a socket counts no more than 24
LONGEST_WAIT: Final = 366 * 86_400.0  # seconds that a run waits for anything: a year
MOST_GIGABYTES: Final = 1e9
RequestSeconds = Annotated[float, Field(gt=0, le=LONGEST_REQUEST)]
