"""What docs/security.md promises has the tests that it names."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


def _tests(text: str) -> list[tuple[str, str]]:
    """Return file and name ("" for the whole file) of each test; a name alone is of the file named before it."""
    found, file = [], ""
    for match in NAMED.finditer(text):
        file = match[1] or file
        found.append((file, match[2] or ""))
    return found


def test_the_tests_of_promises_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = _tests(text)
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or (name and f"def {name}(" not in (ROOT / file).read_text())
    ]
    assert not missing


def test_every_promise_names_a_test() -> None:
    section = (ROOT / "docs" / "security.md").read_text().split("## What is promised")[1].split("## What is not")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ") and not row.startswith("| promise")]
    assert rows
    assert not [row for row in rows if "`tests/" not in row.split(" | ")[-1] and "`make fuzz`" not in row]
