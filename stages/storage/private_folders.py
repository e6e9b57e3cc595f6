"""Folders of this user alone: made for nobody else, never through others' links, and refused where others may write.

Whoever may replace a folder or one above it decides what is read from it. So each part of the path is looked at: it
belongs to this user or to the machine's administrator, and nobody else may rename what lies in it.
"""

import contextlib
import fcntl
import grp
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stages.contract.errors import InputFault
from stages.contract.texts import one_line

_MOST_LINKS = 40
_LOCK_SECONDS, _LOCK_PAUSE = 5.0, 0.01
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(path: Path, key: str) -> Path:
    """Make a folder that only this user can enter, or check the one that is there; ``key`` names the setting.

    Raises:
        InputFault: others could read it, write in it, or put something else in its place.
    """
    real = _follow_own_links(Path(os.path.abspath(path)), key)
    with _explained(path, key):
        for parent in [*reversed(real.parents)]:
            with contextlib.suppress(FileExistsError):
                parent.mkdir(mode=0o700)
            _check_parent(parent, key)
        with contextlib.suppress(FileExistsError):
            real.mkdir(mode=0o700)
        found = real.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(real, key, "is no folder")
    if found.st_uid != os.geteuid():
        raise _refused(real, key, f"belongs to {_user(found.st_uid)}")
    if found.st_mode & _OTHERS:
        raise _refused(real, key, f"can be entered by others (mode {stat.S_IMODE(found.st_mode):04o})")
    return real


def user_folder() -> Path:
    """Return ``~/.corgi``, where what belongs to no store of this machine is kept; closed to others, if it was not."""
    try:
        folder = Path.home() / ".corgi"
    except RuntimeError:
        raise InputFault(
            "HOME: this user has no home folder, and logs, locks and records of a remote store are kept there: "
            "set HOME to a folder that you may write"
        ) from None
    with contextlib.suppress(OSError):
        if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
            folder.chmod(0o700)  # earlier versions left it open
    return private_folder(folder, "HOME")


def folder_in_temporary(prefix: str, key: str) -> Path:
    """Return this user's folder of this prefix in the machine's temporary folder, made where there is none.

    Its name ends at random, so that nobody can make it first. All processes of the user find the same one: of several,
    the first by name. What others made under such a name is passed over.
    """
    temporary = Path(tempfile.gettempdir())
    prefix = f"{prefix}-{os.geteuid()}-"
    with _explained(temporary, key), _one_at_a_time(temporary):
        found = _own_folders(temporary, prefix) or [Path(tempfile.mkdtemp(prefix=prefix, dir=temporary))]
        return private_folder(found[0], key)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of ours from making a folder in it; not for ever, as any user may hold this lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < until:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            except OSError:  # the file system has no locks
                break
            else:
                break
        yield
    finally:
        os.close(handle)


def _own_folders(folder: Path, prefix: str) -> list[Path]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                try:
                    state = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process has just removed it
                    continue
                if state.st_uid == os.geteuid() and not state.st_mode & _OTHERS:
                    found.append(folder / entry.name)
    return sorted(found)


def _follow_own_links(path: Path, key: str) -> Path:
    """Return the path without links; one that belongs to another user is refused, wherever it points."""
    done, parts, links = Path(path.anchor), list(path.parts[1:]), 0
    while parts:
        part = parts.pop(0)
        step = done.parent if part == ".." else done / part
        with _explained(path, key):
            target = os.readlink(step) if step.is_symlink() else None
        if target is None:
            done = step
            continue
        links += 1
        owner = step.lstat().st_uid
        if owner not in _trusted() or links > _MOST_LINKS:
            raise _refused(step, key, f"is a link that belongs to {_user(owner)}")
        lead = Path(target)
        done = Path(lead.anchor) if lead.is_absolute() else done
        parts[:0] = lead.parts[1:] if lead.is_absolute() else lead.parts
    return done


def _check_parent(folder: Path, key: str) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(folder, key, "is no folder")
    if found.st_uid not in _trusted():
        raise _refused(folder, key, f"belongs to {_user(found.st_uid)}, who could replace what is in it")
    if found.st_mode & stat.S_ISVTX:  # there, only its owner can rename or delete a folder
        return
    by_group = found.st_mode & stat.S_IWGRP and not _is_group_of_one(found.st_gid)
    if by_group or found.st_mode & stat.S_IWOTH:
        raise _refused(folder, key, "can be written by others, who could replace what is in it")


def _trusted() -> frozenset[int]:
    """Return this user, root, and whom the root folder belongs to (another one than 0 in some containers)."""
    return frozenset((0, os.geteuid(), os.lstat("/").st_uid))


def _is_group_of_one(group: int) -> bool:
    """Whether a group is root's, or the one of this user alone that many systems make for each user."""
    if group == 0:
        return True
    try:
        name, members = grp.getgrgid(group).gr_name, grp.getgrgid(group).gr_mem
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return name == user and set(members) <= {user}


@contextlib.contextmanager
def _explained(path: Path, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, key, f"cannot be used ({error.strerror or error})") from None


def _refused(folder: Path, key: str, found: str) -> InputFault:
    return InputFault(
        f"{key}: {one_line(folder)} {found}: allowed is a folder of this user's own (chmod 700) below folders that "
        f"nobody else can change: name another with {key}"
    )


def _user(number: int) -> str:
    try:
        return one_line(pwd.getpwuid(number).pw_name)
    except KeyError:
        return f"user {number}"
