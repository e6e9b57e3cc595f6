"""Find banned words: ``python -m tests.architecture.words`` prints each with its file and line, then their number.

The words are in banned_words.yaml. Names that are defined here count, not those that a library defines; so do strings
that look like a key.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BANNED = yaml.safe_load(Path(__file__).with_name("banned_words.yaml").read_text())
#: Where old words stay: what was published under them, and captions, which are data.
EXEMPT = {
    "CHANGELOG.md",
    "models/scenes/captions.py",
    "tests/architecture/banned_words.yaml",
    "pipeline/config/renamed_keys.yaml",
}
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
KEY = re.compile(r"[a-z]+([_/][a-z0-9]+)*")  # of a mapping, a metric, a field
PROSE = re.compile(rf"(?<![\w/.-])({'|'.join(BANNED['prose'])})(?![\w/-])", re.IGNORECASE)
TEXT = {".md", ".py", ".toml", ".yaml", ".yml", ""}


def find_words() -> list[str]:
    """Return one line per banned word: file, line, what was found and what is written in its stead."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in sorted(set(listed.splitlines()) - EXEMPT):
        path = ROOT / name
        if path.suffix not in TEXT or not path.is_file():
            continue
        text = path.read_text()
        hits = {*_in_names(_names(path, text)), *_in_prose(text)}
        allowed = BANNED["allowed"].get(name, ())
        found += [
            f"{name}:{line}: {word} -> {BANNED[kind][part]}"
            for line, word, kind, part in sorted(hits)
            if word not in allowed
        ]
    return found


def _names(path: Path, text: str) -> Iterator[tuple[str, int]]:
    """Yield each name that the file defines, with its line."""
    if path.suffix == ".py":
        yield path.stem, 1
        for node in ast.walk(ast.parse(text)):
            yield from _defined(node)
    elif path.suffix == ".yaml":
        for document in yaml.compose_all(text):
            yield from _keys(document)


def _defined(node: ast.AST) -> Iterator[tuple[str, int]]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, node.lineno
        case ast.arg():
            yield node.arg, node.lineno
        case ast.alias(asname=str(name)):
            yield name, node.lineno
        case ast.Name(ctx=ast.Store()):
            yield node.id, node.lineno
        case ast.Attribute(ctx=ast.Store()):
            yield node.attr, node.lineno
        case ast.Constant(value=str(text)) if KEY.fullmatch(text):
            yield text, node.lineno


def _keys(node: Any) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key.start_mark.line + 1
            yield from _keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys(item)


def _in_names(names: Iterator[tuple[str, int]]) -> Iterator[tuple[int, str, str, str]]:
    for name, line in names:
        for part in PARTS.findall(name):
            if part.lower() in BANNED["identifiers"]:
                yield line, name, "identifiers", part.lower()


def _in_prose(text: str) -> Iterator[tuple[int, str, str, str]]:
    for match in PROSE.finditer(text):
        if not text[: match.start()].rstrip(" \n#").lower().endswith("standard"):  # a standard deviation
            yield text.count("\n", 0, match.start()) + 1, match[1], "prose", match[1].lower()


def main() -> None:
    """Print what was found."""
    found = find_words()
    print("\n".join(found))
    print(f"{len(found)} banned words")


if __name__ == "__main__":
    main()
