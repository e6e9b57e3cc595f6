"""What is installed is pinned by version and hash, and nothing says where it is to be had from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "constraints.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(
    r"""
    (?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[\w.!+]+)
    (?:\ ;\ (?P<marker>[^\\]+?))?
    (?:\ \\\n\ {4}--hash=sha256:[0-9a-f]{64})+
    """,
    re.VERBOSE,
)


def _pins() -> list[re.Match[str]]:
    return list(PIN.finditer(LOCK))


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_lock_holds_pins_with_hashes_and_nothing_else() -> None:
    left = PIN.sub("", "\n".join(line for line in LOCK.splitlines() if not line.startswith("#")))
    assert not left.strip()
    assert len(_pins()) > 200


@pytest.mark.parametrize("word", ["://", "--index-url", "--extra-index-url", "--find-links", " @ ", "--trusted-host"])
def test_no_address_of_an_index_is_in_the_lock(word: str) -> None:
    assert word not in LOCK
    assert word not in "".join(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip" in line)


def test_every_dependency_of_the_project_is_pinned() -> None:
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    assert {_name(one) for one in wanted} <= {pin["name"] for pin in _pins()}


def test_the_tools_that_install_are_pinned() -> None:
    assert {"setuptools", "uv"} <= {pin["name"] for pin in _pins()}
