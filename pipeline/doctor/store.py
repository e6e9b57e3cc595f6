"""The store of an experiment: whether it can be reached, written, renamed and deleted in, and what its clock shows."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.doctor.finding import Finding, Subject, error, ok, warning
from stages.storage.filesystems import describe_error, is_local, open_address, use_environment

_LATE = 30.0  # seconds of difference between clocks that are worth a word
_TOO_LATE = 300.0  # S3 refuses requests that are a quarter of an hour off


def check(subject: Subject) -> Iterator[Finding]:
    """Yield what can be done in the store; what is made for it is deleted again."""
    if subject.config is None:
        yield ok("store", "no experiment is given: `corgi doctor CONFIG` checks its store")
        return
    uri = subject.config.store
    use_environment(subject.config.storage.environment())
    try:
        fs, root = open_address(uri)
        folder = _existing(root) if is_local(fs) else root
        yield from _check_folder(fs, folder, uri)
    except Exception as cause:  # noqa: BLE001  whatever a file system's library raises
        yield error("store", f"{uri}: {describe_error(cause)}", "mend it, or use another store=…")


def _check_folder(fs: Any, folder: str, uri: str) -> Iterator[Finding]:
    probe, content = f"{folder}/.probe-{uuid.uuid4().hex}", b"corgi doctor"
    renamed = f"{probe}-renamed"
    try:
        fs.pipe_file(probe, content)
        written = time.time()
        if fs.cat_file(probe) != content:
            yield error("store", f"{uri}: a file is read otherwise than it was written", "check the file system")
        yield from check_clock(written, fs.modified(probe).timestamp(), uri)
        yield from _check_conditional(fs, probe, uri)
        fs.mv(probe, renamed)
        fs.rm_file(renamed)
        yield ok("store", f"{uri}: files can be written, read, renamed and deleted")
    except BaseException:
        for name in (probe, renamed):
            _remove(fs, name)
        raise


def _remove(fs: Any, name: str) -> None:
    try:
        fs.rm_file(name)
    except Exception:  # noqa: BLE001  it is not there, or what keeps it from being deleted is reported already
        return


def check_clock(here: float, there: float, uri: str) -> Iterator[Finding]:
    """Yield whether two times of the same instant, by this machine and by the store, agree."""
    late = abs(here - there)
    if late < _LATE:
        yield ok("clock", f"this machine and {uri} differ by {late:.0f} s at most")
    else:
        kind = error if late > _TOO_LATE else warning
        yield kind("clock", f"this machine and {uri} differ by {late:.0f} s", "let an NTP client set the clocks")


def _check_conditional(fs: Any, existing: str, uri: str) -> Iterator[Finding]:
    """Check that a file which is there is not written over by one that asks to be the first."""
    try:
        fs.pipe_file(existing, b"second", mode="create")
    except (FileExistsError, OSError):
        yield ok("store", f"{uri}: conditional writes are kept")
        return
    except (NotImplementedError, TypeError):
        pass
    yield warning(
        "store",
        f"{uri}: conditional writes are not kept, so that two machines can take the same work at the same instant",
        "let one machine at a time drive runs of this store",
    )


def _existing(root: str) -> str:
    """Return the folder, or where it would be made the nearest one that exists."""
    path = Path(root)
    return str(next(one for one in (path, *path.parents) if one.exists()))
