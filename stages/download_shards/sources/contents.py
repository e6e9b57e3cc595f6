"""What identifies the content of the files of a source: SHA-256 of those here, checksums of the store of others."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from stages.contract.digests import file_digest, remote_checksums
from stages.storage.filesystems import is_remote
from stages.storage.walking import is_inside


def content_digests(path: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return what identifies each file of a folder, by its name in it; those that cannot be read are left out.

    Of a link that leads out of the folder, and of what is no regular file, nothing is read.
    """
    if is_remote(path):
        listed = dict(remote_checksums(path, "**"))
        return {name: listed[name].encode() for name in names if name in listed}
    root, found = Path(path), {}
    resolved = os.path.realpath(root)
    for name in names:
        file = f"{resolved}/{name}"
        with contextlib.suppress(OSError, ValueError):  # it is counted when it is read
            if is_inside(file, resolved) and os.path.isfile(file):
                found[name] = file_digest(Path(file))
    return found


def digest_of_files(path: str, names: Iterable[str]) -> str:
    """Return the digest of files of a folder: of their names, and of what identifies their contents."""
    ordered = sorted(names)
    contents = content_digests(path, ordered)
    digest = hashlib.sha256()
    for name in ordered:
        digest.update(os.fsencode(name) + b"\0" + contents.get(name, b"") + b"\0")
    return digest.hexdigest()
