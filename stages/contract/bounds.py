"""The longest times and largest numbers that a setting may ask for: clocks, disks and integers have their own ends."""

from typing import Annotated, Final

from pydantic import Field

LONGEST_REQUEST: Final = 86_400.0  # seconds of one step, such as a reply: a day; a socket counts no more than 24
LONGEST_WAIT: Final = 366 * 86_400.0  # seconds that a run waits for anything: a year
MOST_GIGABYTES: Final = 1e9
LARGEST_SEED: Final = 2**53  # a whole number that any reader of JSON keeps, as the seeds that follow it
LARGEST_COUNT: Final = 2**63 - 1  # of which arrays, tensors and tables hold numbers
LONGEST_SIDE: Final = 65_535  # pixels, as JPEG counts them

RequestSeconds = Annotated[float, Field(gt=0, le=LONGEST_REQUEST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""Of a generator of random numbers, which takes none below 0; the seed of a hash may be any number."""
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Pixels = Annotated[int, Field(gt=0, le=LONGEST_SIDE)]
"""The side of an image."""
