"""Mutations that keep the structure of a text, so that they reach what a bracket would keep from them."""

import csv
import io
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import yaml

from tests.fuzz.mutations import LONGEST, NUMBERS, TOKENS, Mutation, mutate_bytes

_DEEP = "@deep@"
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, -(2**63), 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", " ", "a", "\0", "\ud800", "\u202e", "\x1b[31m", "[red]", "../x", "/etc/passwd", "/dev/zero", "~", "x" * 70_000,
    "1", "true", "null", "s3://x/y", "file:///etc/passwd", "http://u:p@h/", [], {}, [[]], [None], {"a": 1}, {"": {}},
    [1, "a", None], ["a"] * 1000, _DEEP,
)  # fmt: skip


# ---- JSON and YAML


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Change a value, a key or the order of a JSON document; or its text, where it is none."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = json.dumps(mutate_tree(rng, tree), ensure_ascii=rng.random() < 0.7)
    return _deepen(rng, text, "[", "]").encode(errors="surrogatepass")[:LONGEST]


def mutate_json_lines(rng: Random, data: bytes) -> bytes:
    """Change one line of JSON lines, or their text."""
    lines = data.splitlines()
    if not lines or rng.random() < 0.2:
        return mutate_bytes(rng, data)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(rng, lines[at])
    return b"\n".join(lines) + rng.choice((b"", b"\n"))


def mutate_yaml(rng: Random, data: bytes) -> bytes:
    """Change a YAML document's tree, or its text; aliases and tags included."""
    if rng.random() < 0.3:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.choice(_YAML) + data[at:]
    if re.search(rb"&k\d+ \[", data):  # of an earlier mutation: its tree has more nodes than there is memory
        return mutate_bytes(rng, data)
    try:
        tree = yaml.safe_load(data)
    except Exception:  # noqa: BLE001  whatever it is, it was mutated before
        return mutate_bytes(rng, data)
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = yaml.safe_dump(_plain(mutate_tree(rng, tree)), allow_unicode=rng.random() < 0.5)
    return _deepen(rng, text, "[", "]").encode(errors="surrogatepass")[:LONGEST]


_BOMB = b"".join(b"k%d: &k%d [%s]\n" % (n, n, b"*k%d, " % (n - 1) * 9 if n else b"x, " * 9) for n in range(12))
_YAML = (
    _BOMB, b"&a [*a]", b"*nothing", b"!!python/object/apply:os.system [id]", b"!!python/name:os.system", b"!!binary x",
    b"!!set {a, b}", b"!!timestamp 99999-01-01", b"2001-99-99", b"<<: *x\n", b"<<: {a: 1}\n", b"\n---\n", b"\n...\n",
    b"%YAML 9.9\n---\n", b"? [a, b]\n: c\n", b"? {a: b}\n: c\n", b"1: 2\n", b"~: 1\n", b"|\n", b">\n", b"\t", b"1:60",
)  # fmt: skip


def mutate_tree(rng: Random, tree: Any) -> Any:
    """Return the tree with one node changed."""
    paths = list(_paths(tree))
    path = rng.choice(paths)
    return _changed(rng, tree, path)


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if len(path) < 40:
        below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, value in below:
            yield from _paths(value, (*path, key))


def _changed(rng: Random, tree: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return _new_value(rng, tree)
    key, *rest = path
    if isinstance(tree, list):
        return [*tree[:key], *_items(rng, tree[key], tuple(rest)), *tree[key + 1 :]]
    changed = dict(tree)
    if not rest and rng.random() < 0.4:
        value = changed.pop(key)
        if rng.random() < 0.6:
            changed[rng.choice((f"{key}x", "", "kind", "\x1b[2J", "\ud800", "x" * 5000, "__class__"))] = value
        return changed
    changed[key] = _changed(rng, tree[key], tuple(rest))
    return changed


def _items(rng: Random, value: Any, rest: tuple[Any, ...]) -> list[Any]:
    if not rest and rng.random() < 0.3:
        return rng.choice(([], [value, value], [value] * 1000))
    return [_changed(rng, value, rest)]


def _new_value(rng: Random, value: Any) -> Any:
    kind = rng.random()
    if isinstance(value, str) and kind < 0.4:
        return mutate_bytes(rng, value.encode(errors="replace")).decode(errors="surrogateescape")
    if isinstance(value, int | float) and kind < 0.5:
        return rng.choice((-value, value + 1, value * 1000, str(value), [value], *NUMBERS, -1, 0.1))
    if kind < 0.1:
        return [value]
    return {"a": value} if kind < 0.2 else rng.choice(_VALUES)


def _deepen(rng: Random, text: str, left: str, right: str) -> str:
    for quoted in (f'"{_DEEP}"', f"'{_DEEP}'"):
        depth = rng.choice((10, 200, 900, 3000, 100_000))
        text = text.replace(quoted, left * depth + right * depth)
    return text


def _plain(tree: Any) -> Any:
    """Return a tree that YAML can write."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return tree.encode(errors="replace").decode() if isinstance(tree, str) else tree


# ---- tables as text


def mutate_csv(rng: Random, data: bytes, delimiter: str = ",") -> bytes:
    """Change cells, rows, columns, quotes or the encoding of a table."""
    kind = rng.random()
    if kind < 0.25:
        return mutate_bytes(rng, data)
    text = data.decode(errors="replace")
    if kind < 0.35:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "cp1252", "utf-32-be")), "replace")
    rows = [row for row in csv.reader(io.StringIO(text[:20_000]), delimiter=delimiter) if row] or [["url"]]
    rng.choice((_change_cell, _change_header, _ragged, _more_rows))(rng, rows)
    sink = io.StringIO()
    style: Any = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    other = rng.choice((delimiter, delimiter, delimiter, ";", "\t", ",", "|"))
    csv.writer(sink, delimiter=other, quoting=style, lineterminator=rng.choice(("\n", "\r\n"))).writerows(rows)
    return sink.getvalue().encode(errors="surrogatepass")[:LONGEST]


def _change_cell(rng: Random, rows: list[list[str]]) -> None:
    row = rng.choice(rows)
    at = rng.randrange(len(row))
    tokens = (token.decode(errors="surrogateescape").replace("\0", "0") for token in TOKENS)
    row[at] = rng.choice((*tokens, "", "007", "3.10", "True", "2001-01-01", '"', '"a'))


def _change_header(rng: Random, rows: list[list[str]]) -> None:
    head = rows[0]
    at = rng.randrange(len(head))
    head[at] = rng.choice((head[0], "", " url", "URL", "\ufeffurl", "caption", "key", "status", "sha256", "a\nb"))


def _ragged(rng: Random, rows: list[list[str]]) -> None:
    row = rng.choice(rows)
    rng.choice((row.pop, lambda: row.append("x"), row.clear))()
    row[:] = row or [""]


def _more_rows(rng: Random, rows: list[list[str]]) -> None:
    rows += [list(rng.choice(rows)) for _ in range(rng.choice((1, 100, 2000)))]


def mutate_tsv(rng: Random, data: bytes) -> bytes:
    """Change a table with tabs."""
    return mutate_csv(rng, data, "\t")


# ---- several files in one input


def pack_files(files: dict[str, bytes]) -> bytes:
    """Return files as one input; names may hold what ``os.fsdecode`` makes of bytes."""
    return json.dumps([[name, content.decode("latin-1")] for name, content in files.items()]).encode()


def unpack_files(data: bytes) -> dict[str, bytes]:
    """Return the files of an input."""
    return {name: content.encode("latin-1") for name, content in json.loads(data)}


def mutate_files(by_name: Callable[[str], Mutation], names: bool = False) -> Mutation:
    """Return the mutation of one of several files, each as its name says; with ``names``, also of names."""

    def mutate(rng: Random, data: bytes) -> bytes:
        files = unpack_files(data)
        name = rng.choice(sorted(files))
        if names and rng.random() < 0.3:
            content = files.pop(name)
            files[_new_name(rng, name)] = content
        else:
            files[name] = by_name(name)(rng, files[name])
        return pack_files(files)

    return mutate


def _new_name(rng: Random, name: str) -> str:
    return rng.choice((
        name.upper(), name.capitalize(), f"sub/{name}", f"{name}.txt", f"a.b.{name}", "e\u0301" + name, "\udcff" + name,
        "\x1b[2J" + name, "[red]" + name, "x" * 200 + name, name.rpartition(".")[0], f"\n{name}", f" {name} ",
    ))  # fmt: skip
