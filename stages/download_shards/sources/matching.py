"""How the rows of a metadata file name files: exactly, or in one of the ways in which such names are written elsewhere.

A name is looked for as it is, below the folder of the metadata file and then below the top; with backslashes as
slashes; as an absolute path in the folder; then without regard to case and to the Unicode form (NFC, NFD). One without
the suffix of an image is looked for by the names without their suffixes, and a number also with zeros before it. What
may mean several files means none. A file that one row names exactly is not what another row means by a name alike: that
row's own file is missing.
"""

import collections
import posixpath
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import shown
from stages.formats.image_folders import IMAGE_SUFFIXES, fold

__all__ = ["IMAGE_SUFFIXES", "FileIndex", "fold"]

_LONGEST_NUMBER = 30


class FileIndex:
    """The images of a tree by their names and by what else may mean them."""

    def __init__(self, names: Sequence[str], tops: Iterable[str]) -> None:
        self._names, self._tops = names, tuple(top.rstrip("/") + "/" for top in tops)
        self._exact = frozenset(names)

    def exact(self, name: str, folder: str) -> str | None:
        """Return the file that a row of the metadata of a folder names as it is."""
        return next((path for path in self._paths(name.strip(), folder) if path in self._exact), None)

    def match(self, name: str, folder: str, named: Set[str] = frozenset()) -> str | ItemFault:
        """Return the file that a row of the metadata of a folder means, or why there is none.

        ``named`` are the files that other rows name exactly.
        """
        paths = list(dict.fromkeys(self._paths(name.strip(), folder)))
        if not paths:
            cause = FailureCause.OUTSIDE_FOLDER if name.strip() else FailureCause.UNMATCHED_ROW
            return ItemFault(cause)
        if (exact := self.exact(name, folder)) is not None:
            return exact
        has_suffix = posixpath.splitext(paths[0])[1].lower() in IMAGE_SUFFIXES
        for found in self._alike(paths, has_suffix):
            if has_suffix and all(path in named for path in found):
                continue
            if len(found) == 1:
                return found[0]
            if found:
                several = ", ".join(shown(one, 40) for one in found[:3])
                return ItemFault(FailureCause.UNMATCHED_ROW, f"{FailureCause.UNMATCHED_ROW.messages[0]}: {several}")
        return ItemFault(FailureCause.MISSING_FILE if has_suffix else FailureCause.UNMATCHED_ROW)

    def _paths(self, name: str, folder: str) -> Iterator[str]:
        """Yield the paths in the tree that a name may stand for, the likeliest first."""
        for text in dict.fromkeys((name, name.replace("\\", "/"))):
            for top in self._tops:
                if text.startswith(top):
                    yield posixpath.normpath(text[len(top) :])
            if text and not text.startswith("/"):
                for base in dict.fromkeys((folder, "")):
                    path = posixpath.normpath(posixpath.join(base, text))
                    if path not in {".", ".."} and not path.startswith("../"):
                        yield path

    def _alike(self, paths: Sequence[str], has_suffix: bool) -> Iterator[list[str]]:
        """Yield the files that the paths may mean, one way after another."""
        for path in paths:
            yield self._folded.get(fold(path), [])
        if has_suffix:
            return
        for path in paths:
            yield self._stems.get(fold(path), [])
        for path in paths:
            folder, slash, last = path.rpartition("/")
            if last.isascii() and last.isdigit() and len(last) <= _LONGEST_NUMBER:
                yield self._numbers.get(f"{fold(folder)}{slash}{int(last)}", [])

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _by((fold(name), name) for name in self._names)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _by((fold(posixpath.splitext(name)[0]), name) for name in self._names)

    @cached_property
    def _numbers(self) -> dict[str, list[str]]:
        def pairs() -> Iterator[tuple[str, str]]:
            for name in self._names:
                folder, slash, last = posixpath.splitext(name)[0].rpartition("/")
                if last.isascii() and last.isdigit() and len(last) <= _LONGEST_NUMBER:
                    yield f"{fold(folder)}{slash}{int(last)}", name

        return _by(pairs())


def _by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = collections.defaultdict(list)
    for key, name in pairs:
        found[key].append(name)
    return dict(found)
