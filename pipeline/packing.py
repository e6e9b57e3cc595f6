"""What goes to a cluster with a job: the files of a folder that it may need; no secrets, no data, no caches."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from pathspec import GitIgnoreSpec

from pipeline.errors import UsageError
from stages.contract.secrets import secrets_in

MIB = 1 << 20
LARGEST_FILE = 10 * MIB  # Ray warns from here on
LARGEST_PACKAGE = 100 * MIB  # of a zip: what Ray's job server takes in one request
LARGEST_CONTENT = 500 * MIB  # of its files: what Ray unpacks
_SHOWN = 5

_IGNORE_FILES = (".gitignore", ".rayignore")
_CODE = (".py", ".md", ".rst")


def _words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


_SECRET_FILES = _words(
    ".env .env.* *.env .envrc *.pem *.key *.p12 *.p8 *.pfx *.ppk *.kdbx *.jks *.keystore *.gpg id_rsa* id_dsa*",
    "id_ecdsa* id_ed25519* credentials* *credentials.json *credentials.yaml *credentials.yml client_secret*",
    "service?account* .netrc _netrc .pgpass .pypirc .npmrc .git-credentials .htpasswd .dockercfg .s3cfg .boto",
    "*.tfstate *.tfvars secret.* secrets.* *.secret *.secrets *.token token token.txt .vault-token kubeconfig",
)
_SECRET_FOLDERS = _words(".aws .ssh .gnupg .kube .docker .azure .config gcloud .secrets secrets")
_CACHES = _words(
    ".git .hg .svn .jj __pycache__ .cache .*_cache node_modules .ipynb_checkpoints .tox .nox .hypothesis *.egg-info",
    "mlruns mlartifacts wandb lightning_logs",
)
# Small weights go along, as configs name them by their path; large ones stay as all large files do.
_DATA = _words("*.tar *.tar.gz *.tgz *.ckpt *.pt *.pth *.npy *.npz *.h5 *.arrow *.db *.sqlite *.pyc")


class Reason(StrEnum):
    """Why a file or folder stays here."""

    SECRET = "may be a secret"
    LINK = "a link that leads elsewhere"
    LARGE = f"larger than {LARGEST_FILE // MIB} MiB"
    DATA = "data"
    STORE = "a store"
    CACHE = "a cache or an environment"
    IGNORED = "ignored by .gitignore"
    SPECIAL = "no readable file"


@dataclass(frozen=True)
class Packed:
    """The files of a folder that go, with their sizes, and what stays."""

    root: Path
    files: dict[str, int]
    left_out: dict[str, Reason]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(self.files.values())

    def describe(self) -> str:
        """Return in words what goes, and what of note stays here."""
        name, size = max(self.files.items(), key=lambda file: file[1])
        lines = [f"package: {len(self.files)} files, {_size(self.bytes)} (largest: {_shown(name)}, {_size(size)})"]
        for reason in (Reason.SECRET, Reason.LINK, Reason.LARGE, Reason.DATA, Reason.SPECIAL):
            names = sorted(_shown(name) for name, why in self.left_out.items() if why is reason)
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"left out, {reason.value}: {', '.join(names[:_SHOWN])}{more}")
        return "\n".join(lines)

    def secrets(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the YAML files that go and hold secrets, with the keys of these."""
        for name in self.files:
            if name.endswith((".yaml", ".yml")):
                found = sorted({key for key, _ in secrets_in(_read_yaml(self.root / name))})
                if found:
                    yield name, found

    def write(self, target: Path, *, largest: int = LARGEST_PACKAGE) -> None:
        """Write the files as a zip; equal content is equal bytes, which a cluster that has them takes once."""
        self._require(self.bytes, LARGEST_CONTENT, "unpacked")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
            for name in sorted(self.files):
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (0o755 if os.access(self.root / name, os.X_OK) else 0o644) << 16
                try:
                    package.writestr(info, (self.root / name).read_bytes())
                except OSError as error:
                    raise UsageError(f"submit: {_shown(name)}: cannot be read ({error}): submit again") from None
        self._require(target.stat().st_size, largest, "compressed")

    def _require(self, size: int, limit: int, how: str) -> None:
        if size <= limit:
            return
        by_folder: dict[str, int] = {}
        for name, length in self.files.items():
            by_folder[name.partition("/")[0]] = by_folder.get(name.partition("/")[0], 0) + length
        largest = sorted(by_folder, key=lambda name: -by_folder[name])[:3]
        parts = ", ".join(f"{name} {_size(by_folder[name])}" for name in largest)
        raise UsageError(
            f"submit: {self.root} is {_size(size)} {how} (most of it: {parts}): Ray's job server takes at most "
            f"{_size(limit)}: name in .gitignore what the job does not need, or put data where the cluster reaches it"
        )


def pack(root: Path, needed: Sequence[Path] = (), store: Path | None = None) -> Packed:
    """Choose the files of a folder that go with a job; ``needed`` go in any case."""
    root = root.resolve()
    files: dict[str, int] = {}
    left_out: dict[str, Reason] = {}
    links: list[Path] = []
    for path, reason in _walk(root, store):
        name = path.relative_to(root).as_posix()
        if reason is not None:
            left_out[name] = reason
        elif path.is_symlink():
            links.append(path)
        else:
            files[name] = path.stat().st_size
    for path in links:
        name, target = path.relative_to(root).as_posix(), path.resolve()
        inside = target.relative_to(root).as_posix() if target.is_relative_to(root) else ""
        if inside in files:
            files[name] = files[inside]
        else:
            left_out[name] = Reason.LINK
    for path in needed:
        files[path.relative_to(root).as_posix()] = path.stat().st_size
    return Packed(root, files, {name: why for name, why in left_out.items() if name not in files})


def _walk(root: Path, store: Path | None) -> Iterator[tuple[Path, Reason | None]]:
    """Yield every file, and every folder that is left out as a whole, with the reason why it is."""
    ignored: dict[Path, list[tuple[Path, GitIgnoreSpec]]] = {}
    for folder_name, folder_names, file_names in os.walk(root):
        folder = Path(folder_name)
        specs = [*ignored.get(folder.parent, []), *_ignore_specs(folder)]
        ignored[folder] = specs
        for name in list(folder_names):
            path = folder / name
            reason = Reason.LINK if path.is_symlink() else _why_not_folder(path, store, specs)
            if reason is not None:
                folder_names.remove(name)
                yield path, reason
        for name in file_names:
            yield folder / name, _why_not_file(folder / name, specs)


def _ignore_specs(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    files = [folder / name for name in _IGNORE_FILES] + [folder / ".git" / "info" / "exclude"]
    for file in files:
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            yield folder, GitIgnoreSpec.from_lines(lines)


def _is_ignored(path: Path, specs: Sequence[tuple[Path, GitIgnoreSpec]], suffix: str = "") -> bool:
    """Return what the nearest ignore file says that names the path."""
    for folder, spec in reversed(specs):
        found = spec.check_file(path.relative_to(folder).as_posix() + suffix)
        if found.include is not None:
            return bool(found.include)
    return False


def _why_not_folder(path: Path, store: Path | None, specs: Sequence[tuple[Path, GitIgnoreSpec]]) -> Reason | None:
    name = path.name.lower()
    if not name.isprintable():  # nor are the names of what is in it, which the package could not hold
        return Reason.SPECIAL
    if _matches(name, _SECRET_FOLDERS) and not (path / "__init__.py").exists():
        return Reason.SECRET
    if _matches(name, _CACHES) or any((path / mark).exists() for mark in ("pyvenv.cfg", "conda-meta", "CACHEDIR.TAG")):
        return Reason.CACHE
    if path == store or ((path / "store.json").is_file() and (path / "artifacts").is_dir()):
        return Reason.STORE
    return Reason.IGNORED if _is_ignored(path, specs, "/") else None


def _why_not_file(path: Path, specs: Sequence[tuple[Path, GitIgnoreSpec]]) -> Reason | None:
    name = path.name.lower()
    is_code = name.endswith(_CODE)
    if _matches(name, _SECRET_FILES) and not is_code:
        return Reason.SECRET
    if path.is_symlink():
        return None
    if not (path.is_file() and os.access(path, os.R_OK) and path.name.isprintable()):
        return Reason.SPECIAL
    if _is_ignored(path, specs):
        return Reason.IGNORED
    if _matches(name, _DATA) or path.stat().st_size > LARGEST_FILE:
        return Reason.DATA if _matches(name, _DATA) else Reason.LARGE
    return Reason.SECRET if not is_code and _holds_private_key(path) else None


def _holds_private_key(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096)
    return b"-----BEGIN" in start and b"PRIVATE KEY-----" in start


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.stat().st_size < MIB else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _size(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= MIB // 10 else f"{count / 1024:.1f} KiB"
