"""Which files belong together in the layout of clip-retrieval and LAION, by their names."""

from collections.abc import Iterable, Mapping, Sequence

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.formats.embeddings.layout import IMAGE, METADATA, TEXT
from stages.storage.walking import is_hidden

SUFFIXES = {IMAGE: "npy", TEXT: "npy", METADATA: "parquet"}


def by_part(where: str, found: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Return the files of each kind by what the names of a part's files have in common, in their order.

    That is the name without its kind (``img_emb_a_0012.npy`` and ``metadata_a_0012.parquet``: a_0012) where the names
    of all kinds agree in it, else what follows the last underscore.

    :raises InputFault: two files of one kind have the same there.
    """
    whole = {kind: [_without_kind(name, kind) for name in names] for kind, names in found.items()}
    sides = [sorted(keys) for keys in whole.values() if keys]
    if all(side == sides[0] and len(set(side)) == len(side) for side in sides):
        chosen = whole
    else:
        chosen = {kind: [_end(name) for name in names] for kind, names in found.items()}
    for kind, names in found.items():
        if (repeated := _first_repeated(chosen[kind])) is not None:
            alike = [name for name, key in zip(names, chosen[kind], strict=True) if key == repeated]
            listed = " and ".join(shown(f"{kind}/{_file(name)}") for name in alike[:2])
            raise InputFault(
                f"{where}: found {listed}, whose names both end in {shown(repeated, 60)!r}, and no files of the other "
                f"kinds whose names are theirs but for the kind: expected {IMAGE}/{IMAGE}_a_0000.npy, "
                f"{METADATA}/{METADATA}_a_0000.parquet and so on: rename the files of each part alike, or complete them"
            )
    return {kind: dict(zip(chosen[kind], names, strict=True)) for kind, names in found.items()}


def end_alike(names: Iterable[str]) -> bool:
    """Return whether two files of one kind have the same after the last underscore; names are ``<kind>/<file>``."""
    ends: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder in SUFFIXES and file.endswith(f".{SUFFIXES[folder]}") and not is_hidden(file):
            ends.setdefault(folder, []).append(_end(file))
    return any(_first_repeated(found) is not None for found in ends.values())


def _without_kind(path: str, kind: str) -> str:
    return _stem(path).removeprefix(f"{kind}_")


def _end(path: str) -> str:
    return _stem(path).rpartition("_")[2]


def _stem(path: str) -> str:
    return _file(path).rpartition(".")[0]


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _first_repeated(keys: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
