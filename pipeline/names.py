"""Names that become parts of paths: of experiments, runs, stages, sweeps and plots."""

from typing import Annotated, Final

from pydantic import Field

FILE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
LONGEST_NAME: Final = 100  # characters, so that a hash and endings fit behind it

Name = Annotated[str, Field(pattern=f"^{FILE_NAME}$")]
"""As records hold it; what a config gives is at most ``LONGEST_NAME`` long."""
GivenName = Annotated[Name, Field(max_length=LONGEST_NAME)]
