"""What documents and docstrings name exists: links, files, modules, config keys, commands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import app
from pipeline.config.messages import keys_of, models_in
from pipeline.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if path.name != "CHANGELOG.md")
SOURCES = [path for folder in ("pipeline", "stages", "cluster", "models") for path in (ROOT / folder).rglob("*.py")]
CODE = re.compile(r"`([^`\n]+)`")
MODULE = re.compile(r"(?<![\w./])(?:pipeline|stages|cluster|models)(?:\.\w+)+")
FILE = re.compile(r"(?:pipeline|stages|cluster|models|tests|benchmarks|configs|docs)/[\w./-]*|[\w-]+\.(?:md|toml)")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:[=:].*)?")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert not [name for name in targets if "://" not in name and not (path.parent / name).exists()]
    anchors = set(re.findall(r"\]\(#([^)]+)\)", text))
    titles = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}
    assert anchors <= titles


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_exists(path: Path) -> None:
    spans = CODE.findall(path.read_text())
    files = [span for span in spans if FILE.fullmatch(span) and not (ROOT / span).exists()]
    modules = [name for span in spans for name in MODULE.findall(span) if not _resolves(name) and not _is_section(name)]
    keys = [match[1] for span in spans if (match := KEY.fullmatch(span)) and not _is_key(match[1])]
    assert not files + modules + keys


def test_docstrings_name_what_exists() -> None:
    wrong = [f"{path.relative_to(ROOT)}: {name}" for path in SOURCES for name in _named(path) if not _resolves(name)]
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= targets
    commands = {item.name or getattr(item.callback, "__name__", "") for item in app.registered_commands}
    assert set(re.findall(r"(?:^|`)corgi ([a-z]+)", text, re.M)) <= commands


def _named(path: Path) -> Iterator[str]:
    """Yield the modules that a source's docstrings and comments name."""
    text = path.read_text()
    for span in [*re.findall(r'"""(.*?)"""', text, re.S), *re.findall(r"# .*", text)]:
        yield from (name.rstrip(".") for name in MODULE.findall(span))


def _resolves(name: str) -> bool:
    """Return whether a dotted name is a module, or is defined in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:count])
        files = [module.with_suffix(".py"), module / "__init__.py"]
        if found := [file for file in files if file.is_file()]:
            rest = parts[count:]
            return not rest or re.search(rf"\b{rest[0]}\b", found[0].read_text()) is not None
    return False


def _is_section(name: str) -> bool:
    return name.partition(".")[0] in RunConfig.model_fields and _is_key(name)


def _is_key(name: str) -> bool:
    """Return whether a dotted name is a config key, or does not begin with a section."""
    first, *rest = name.split(".")
    models: list[Any] = list(models_in(RunConfig.model_fields[first].annotation)) if first in keys_of(RunConfig) else []
    for part in rest if models else ():
        annotations = [keys_of(model)[part] for model in models if part in keys_of(model)]
        if not annotations:
            return part.isdigit() or first == "reuse"
        models = [below for annotation in annotations for below in models_in(annotation)]
    return True
