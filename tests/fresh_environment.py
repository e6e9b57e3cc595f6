"""A virtual environment with the project's wheel and its declared dependencies alone, made without a network.

The dependencies are those installed here: of each distribution that the project's ``dependencies`` lead to, without its
extras, the files that its RECORD lists are linked. What else is installed here cannot be imported there.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "stages", "cluster", "models")


def make_fresh_environment(folder: Path) -> Path:
    """Make the environment below a folder, and return its interpreter."""
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    link_files(Path(sysconfig.get_path("purelib")), packages, files_of(closure(project["dependencies"])))
    with zipfile.ZipFile(build_wheel(folder)) as wheel:
        wheel.extractall(packages)
    return home / "bin" / "python"


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel from a copy, as a build leaves files beside the sources; return its path."""
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder), "."]
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=source, check=True)
    return next(folder.glob("*.whl"))


def closure(requirements: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Return the distributions that requirements lead to here, by name; markers and extras are respected."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(one), "") for one in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, importlib.metadata.distribution(name))
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(one), wanted) for one in found[name].requires or ()]
    return found


def files_of(distributions: dict[str, importlib.metadata.Distribution]) -> set[str]:
    """Return the files that their RECORDs list, below the folder of packages."""
    return {
        file.as_posix()
        for distribution in distributions.values()
        for file in distribution.files or ()
        if ".." not in file.parts and not file.is_absolute() and "__pycache__" not in file.parts
    }


def link_files(source: Path, target: Path, files: set[str]) -> None:
    """Link these files of a folder; a folder that holds nothing else is linked as a whole, as that is quicker."""
    others: set[str] = {"."}  # folders that hold something else, however deep
    for path, _, names in os.walk(source):
        here = os.path.relpath(path, source)
        if "__pycache__" not in here and any(os.path.normpath(f"{here}/{name}") not in files for name in names):
            folder = Path(here)
            others |= {str(folder), *map(str, folder.parents)}
    _link(source, target, files, others, "")


def _link(source: Path, target: Path, files: set[str], others: set[str], below: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(source):
        name = f"{below}{entry.name}"
        if entry.is_dir():
            if entry.name == "__pycache__":
                continue
            if name not in others:
                (target / entry.name).symlink_to(entry.path)
            elif any(one.startswith(f"{name}/") for one in files):
                _link(source / entry.name, target / entry.name, files, others, f"{name}/")
        elif name in files:
            (target / entry.name).symlink_to(entry.path)
