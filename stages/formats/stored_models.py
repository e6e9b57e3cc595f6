"""Models from outside that a run uses, kept in its store by their content: models/<digest>/.

    files/       the files of the model's folder
    model.json   the name of that folder, and the SHA-256 of every file in it; written last

What was trained with such a model finds it there, wherever it was trained: a job's own files, among which the folder
may have been, are deleted after the job. The digest is :func:`stages.contract.digests.content_digest`, as in
fingerprints.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from stages.contract.digests import file_digest, folder_digest, folder_files, read_digest
from stages.contract.documents import Document
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import shown
from stages.storage.artifact import Artifact, Output

_FOLDER = "models"
_FILES = "files"
_log = logging.getLogger(__name__)


class StoredModel(Document):
    """What is known of a model in the store."""

    file: ClassVar[str] = "model.json"

    name: str
    """That of its folder, for people."""
    files: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """SHA-256 of each file of the folder, by its name."""
    left_out: Sequence[str] = ()
    """Those of them that are not kept, as nothing loads them."""


def store_of(artifact: Artifact) -> str | None:
    """Return the address of the store that holds an artifact; None: it lies in no store."""
    root = artifact.uri.removesuffix(f"/artifacts/{artifact.stage}/{artifact.fingerprint}")
    return None if root == artifact.uri else root


def model_in(store: str, digest: str) -> Artifact:
    """Return where the model of this content lies in a store, if it is there."""
    return Artifact(f"{store}/{_FOLDER}/{digest}", _FOLDER, digest)


def is_stored(model: Artifact) -> bool:
    """Whether the whole model is in the store."""
    return model.exists(StoredModel.file)


def store_model(store: str, folder: Path, digest: str, *, without: Sequence[str] = ()) -> None:
    """Copy a folder of this content into the store, but for files of these patterns, unless it is there undamaged."""
    if _is_whole(model_in(store, digest)):
        return
    output = Output(model_in(store, digest).uri, _FOLDER, digest)
    sums: dict[str, str] = {}
    left_out = [name for name in folder_files(folder) if any(fnmatchcase(name, pattern) for pattern in without)]
    for name, path in folder_files(folder).items():
        if name in left_out:
            sums[name] = read_digest(path).hex()
            continue
        with output.writing(f"{_FILES}/{name}") as copy:
            shutil.copyfile(path, copy)
            sums[name] = read_digest(copy).hex()
    if folder_digest(sums) != digest:
        raise InputFault(f"{folder}: its files changed while they were copied: expected a finished model: run again")
    StoredModel(name=folder.name, files=sums, left_out=tuple(left_out)).write(output)


def local_model(model: Artifact) -> Path:
    """Return a local folder with all files of a model, to be opened at once; each is compared with its digest."""
    files = {name: model.local(f"{_FILES}/{name}") for name in _kept(model)}
    if not files:
        raise _damaged(model, StoredModel.file)
    name, path = next(iter(files.items()))
    return path.parents[name.count("/")]


def _kept(model: Artifact) -> Iterator[str]:
    """Yield the names of the files that are kept; each of them is compared with its digest before the next one."""
    document = StoredModel.of(model)
    if folder_digest(document.files) != model.fingerprint:
        raise _damaged(model, StoredModel.file)
    for name, expected in document.files.items():
        if name not in document.left_out:
            if file_digest(model.local(f"{_FILES}/{name}")).hex() != expected:
                raise _damaged(model, f"{_FILES}/{name}")
            yield name


def _is_whole(model: Artifact) -> bool:
    """Whether the model is in the store; where that is local, also whether its bytes are what they were."""
    if not is_stored(model) or not model.is_local:
        return is_stored(model)
    try:
        return bool(list(_kept(model)))
    except ArtifactError as error:
        _log.warning("%s: it is stored again", str(error).partition(": expected")[0])
        return False


def _damaged(model: Artifact, name: str) -> ArtifactError:
    return ArtifactError(
        f"{shown(model.path(name), 400)}: its bytes are not those of the model that was stored: expected the content "
        f"of digest {model.fingerprint[:12]}: delete {model.uri} and run again where the model's own folder is"
    )
