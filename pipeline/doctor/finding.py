"""What a check returns, and what it is given."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.config.schema import RunConfig

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check found; where it is not ok, also what to do."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is looked over: this machine, and where there is an experiment its store, cluster and cache."""

    config: RunConfig | None
    address: str | None
    """The Ray cluster's, by the experiment or by RAY_ADDRESS."""


def ok(check: str, found: str) -> Finding:
    """Return that nothing is wrong."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Return what will be slow, unsafe or wrong in some cases."""
    return Finding(check, "warning", found, remedy)


def error(check: str, found: str, remedy: str) -> Finding:
    """Return what runs will fail by."""
    return Finding(check, "error", found, remedy)
