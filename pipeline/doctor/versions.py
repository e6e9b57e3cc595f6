"""Python and the packages that decide whether machines fit one another, against constraints.txt."""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.doctor.finding import Finding, Subject, error, ok, warning

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
PACKAGES = (
    "ray", "torch", "torchvision", "deepspeed", "mlflow", "open_clip_torch", "transformers", "diffusers", "numpy",
    "pyarrow", "pydantic", "fsspec", "webdataset", "safetensors",
)  # fmt: skip
_REMEDY = "run `make setup`, on all nodes the same: Ray refuses nodes whose Python or Ray differ"


def check(subject: Subject) -> Iterator[Finding]:
    """Yield one finding for what is as it should be, and one per package that is not."""
    pins = _pins()
    right = [f"python {sys.version.partition(' ')[0]}"]
    for name in PACKAGES:
        found = _compare(name, pins)
        if isinstance(found, Finding):
            yield found
        else:
            right.append(f"{name} {found}")
    yield ok("versions", ", ".join(right))


def _compare(name: str, pins: Mapping[str, str]) -> str | Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return error("versions", f"{name} is not installed", _REMEDY)
    pinned = pins.get(_normal(name))
    if pinned is not None and found.partition("+")[0] != pinned:  # after the plus: the kind of a build, such as cpu
        return warning("versions", f"{name} is {found}, and constraints.txt has {pinned}", _REMEDY)
    return found


def _pins() -> dict[str, str]:
    """Return the versions of constraints.txt; none where the package was installed without its repository."""
    text = CONSTRAINTS.read_text() if CONSTRAINTS.is_file() else ""
    return {_normal(name): pinned for name, pinned in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
