"""Files of pinned packages: from a folder of the user's, or fetched by the registry's own client and kept by content.

The client runs no script of a package, and what it brings is used only if its SHA-512 is the pinned one. Archives are
kept in ``~/.corgi/packages`` under that digest, which is compared again whenever one is read.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from cluster.owned_folders import owned_folder
from stages.contract.errors import InputFault
from stages.contract.parsing import parsing, shown
from stages.download_shards.drawings.package_config import Package
from stages.storage.private_folders import private_folder, user_folder

_SECONDS = 300
_MOST_BYTES = 100_000_000
"""Of a file in a package; the largest in use has 25 MB."""


def read_package_file(package: Package, name: str, folder: Path | None) -> bytes:
    """Return a file of the package, from ``folder`` (laid out as node_modules) or else from the registry.

    Raises:
        InputFault: the package cannot be had, is another one than the pinned one, or lacks the file.
    """
    if folder is not None:
        return _read_folder(folder / package.name, name)
    return _read_archive(_archive(package), package, name)


def check_package(package: Package, folder: Path | None) -> None:
    """Check that the package is in the folder, or in the cache, or could be fetched, without fetching it."""
    if folder is not None:
        read_license(package, folder)
    elif not _cached(package).is_file():
        _npm(package)


def read_license(package: Package, folder: Path | None) -> None:
    """Check that the package says the licence under which it is shown."""
    content = read_package_file(package, "package.json", folder)
    with parsing(lambda reason: _unusable(package.name, f"package.json cannot be read ({reason})")):
        found = json.loads(content)["license"]
    if found != package.spdx:
        raise _unusable(package.name, f"its licence is {shown(found)}, expected {package.spdx}")


def _unusable(where: object, found: str) -> InputFault:
    return InputFault(
        f"download_shards.source: {shown(where)}: {found}: give a folder in which `npm install` has put the packages "
        "as source.path, or leave path out"
    )


def _read_folder(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise _unusable(path, "there is no such file")
    if path.stat().st_size > _MOST_BYTES:
        raise _unusable(path, f"it is larger than {_MOST_BYTES:,} bytes")
    return path.read_bytes()


def _read_archive(content: Path, package: Package, name: str) -> bytes:
    with (
        parsing(lambda reason: _unusable(package.name, f"its archive cannot be read ({reason})")),
        tarfile.open(content, "r:gz") as archive,
    ):
        member = archive.getmember(f"package/{name}")
        file = archive.extractfile(member) if member.isreg() and member.size <= _MOST_BYTES else None
        if file is None:
            raise ValueError(f"{name} is no file of at most {_MOST_BYTES:,} bytes")
        return file.read()


def _cached(package: Package) -> Path:
    digest = base64.b64decode(package.integrity).hex()
    return private_folder(user_folder() / "packages", "HOME") / f"{digest[:32]}.tgz"


def _archive(package: Package) -> Path:
    cached = _cached(package)
    if not cached.is_file() or _integrity(cached) != package.integrity:
        _fetch(package, cached)
    return cached


def _integrity(path: Path) -> str:
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _npm(package: Package) -> str:
    found = shutil.which("npm")
    if found is None:
        raise InputFault(
            f"download_shards.source: the package {package.name} is not here and there is no npm to fetch it: install "
            "Node.js with npm, or give a folder in which `npm install` has put the packages as source.path"
        )
    return found


def _fetch(package: Package, target: Path) -> None:
    npm = _npm(package)
    with owned_folder("corgi-npm-", target.parent) as folder:
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
            reason = done.stderr.strip() if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"no answer in {_SECONDS} s"
        found = sorted(folder.glob("*.tgz"))
        if reason or len(found) != 1:
            raise InputFault(
                f"download_shards.source: npm cannot fetch {package.name} {package.version} "
                f"({shown(reason or 'it brought no archive')}): connect this machine to the registry, or give a folder "
                "in which `npm install` has put the packages as source.path"
            )
        if _integrity(found[0]) != package.integrity:
            raise InputFault(
                f"download_shards.source: npm brought another {package.name} {package.version} than the pinned one "
                "(its SHA-512 differs): use the public registry, or give a folder of packages as source.path"
            )
        found[0].rename(target)
