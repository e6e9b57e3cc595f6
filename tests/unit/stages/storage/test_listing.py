"""What lies at an address is found whatever characters this holds, and a listing that fails is never an empty one."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from pipeline.errors import UsageError
from pipeline.store import Store
from stages.contract.digests import content_digests, remote_checksums
from stages.contract.errors import InputFault
from stages.download_shards.config import DownloadShardsConfig, FolderSource, UrlListSource, WebdatasetSource
from stages.download_shards.sources.folder import list_folder
from stages.download_shards.sources.trees import open_tree
from stages.download_shards.sources.webdataset import Webdataset
from stages.embed_clip.config import ExistingEmbeddings
from stages.embed_clip.existing_files import list_parts
from stages.storage.filesystems import open_address
from stages.storage.folder import Folder
from stages.storage.listing import find_files
from stages.storage.patience import waiting_for

NAMES = ("[2023] cats", "sq[1]", "a*", "what?", "[!a]")
Write = Callable[[str, bytes], None]


class PlainFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A file system that lists one folder at a time, as SFTP's does; some listings fail for a while."""

    protocol = "plain"
    root_marker = "/"
    files: ClassVar[dict[str, bytes]] = {}
    failing: ClassVar[dict[str, int]] = {}
    """How often the listing of a folder fails from now on."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("plain://").strip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a folder, or a file."""
        path = self._strip_protocol(path)
        if self.failing.get(path, 0):
            self.failing[path] -= 1
            raise TimeoutError(f"{path}: timed out")
        found: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            if name == path:
                found[name] = {"name": name, "type": "file", "size": len(content)}
            elif name.startswith(f"{path.rstrip('/')}/"):
                first, _, rest = name[len(path.rstrip("/")) + 1 :].partition("/")
                child = f"{path.rstrip('/')}/{first}"
                found[child] = {"name": child, "type": "directory" if rest else "file", "size": len(content)}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else sorted(found)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        return io.BytesIO(self.files[self._strip_protocol(path)])


@pytest.fixture
def plain() -> Iterator[type[PlainFileSystem]]:
    fsspec.register_implementation("plain", PlainFileSystem, clobber=True)
    PlainFileSystem.files.clear()
    PlainFileSystem.failing.clear()
    for name in ("1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/c/5.jpg", "b/c/notes.txt"):
        PlainFileSystem.files[f"/pile/{name}"] = name.encode()
    yield PlainFileSystem
    fsspec.get_filesystem_class("memory").store.clear()


def writer(base: str) -> Write:
    """Return what writes a file below an address by its name."""
    fs, root = fsspec.core.url_to_fs(base)

    def write(name: str, content: bytes) -> None:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", content)

    return write


IMAGES = ["1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/c/5.jpg"]
LISTS: dict[str, Callable[[str], list[str]]] = {
    "tree": lambda address: [found.name for found in open_tree(address).walk()],
    "checksums": lambda address: [name for name, _ in remote_checksums(address, "**")],
    "digests": lambda address: list(content_digests(address, IMAGES)),
    "artifact": lambda address: list(Folder(address, "download_shards", "f0").sizes()),
    "identity": lambda address: [str(FolderSource(kind="folder", path=address).identity())],
}


@pytest.mark.parametrize("folder", ["/pile", "/pile/a", "/pile/b/c"])
@pytest.mark.parametrize("what", sorted(LISTS))
def test_a_folder_that_cannot_be_listed_is_waited_for_or_an_error(
    plain: type[PlainFileSystem], what: str, folder: str
) -> None:
    expected = LISTS[what]("plain://pile")
    assert what == "identity" or {*IMAGES} <= {*expected}
    plain.failing[folder] = 1
    with pytest.raises((TimeoutError, InputFault), match="timed out"):
        LISTS[what]("plain://pile")
    plain.failing[folder] = 2
    with waiting_for(1):
        assert LISTS[what]("plain://pile") == expected
    assert plain.failing[folder] == 0


def test_a_failed_listing_within_a_folder_of_another_file_system_is_an_error(plain: type[PlainFileSystem]) -> None:
    fs = DirFileSystem("/pile", fsspec.filesystem("plain"))
    assert [*find_files(fs, "b")] == ["b/4.jpg", "b/c/5.jpg", "b/c/notes.txt"]
    plain.failing["/pile/b/c"] = 1
    with pytest.raises(TimeoutError):
        find_files(fs, "b")


@pytest.mark.parametrize("failing", ["/store/runs", "/store/runs/two"])
def test_records_of_runs_that_cannot_be_listed_are_no_missing_runs(plain: type[PlainFileSystem], failing: str) -> None:
    for run in ("one", "two", "three"):
        plain.files[f"/store/runs/{run}/run.json"] = json.dumps({"run": run}).encode()
    store = Store("plain://store")
    plain.failing[failing] = 1
    with pytest.raises(UsageError, match=r"plain://store cannot be read: .*timed out"):
        list(store.runs())


@pytest.mark.parametrize("base", ["memory://listing", "plain://listing"])
def test_what_matches_is_found_to_the_depth_of_its_pattern(plain: type[PlainFileSystem], base: str) -> None:
    names = ["1.tar", "2.TAR", "3.txt", "a/4.tar", "a/b/5.tar", ".tar/6.tar", "aa/[7].tar"]
    for name in names:
        plain.files[f"/listing/{name}"] = b"x"
        writer("memory://listing")(name, b"x")
    fs, root = open_address(base)

    def found(pattern: str) -> list[str]:
        return [path.removeprefix(f"{root}/") for path in find_files(fs, root, pattern)]

    assert found("**") == sorted(names)
    assert found("*.[tT][aA][rR]") == ["1.tar", "2.TAR"]
    assert found("*/*") == [".tar/6.tar", "a/4.tar", "aa/[7].tar"]
    assert found("a/*.tar") == ["a/4.tar"]
    assert found("*") == ["1.tar", "2.TAR", "3.txt"]
    assert find_files(fs, f"{root}/1.tar") == find_files(fs, f"{root}/none") == {}


def _tree(write: Write, name: str) -> None:
    write(f"{name}.jpg", b"image")
    write(f"sub [1]/{name}.jpg", b"image")


def _list(write: Write, name: str) -> None:
    write(f"{name}.csv", f"url\nhttp://a/{name}.jpg\n".encode())


def _tar(write: Write, name: str) -> None:
    write(f"{name}.tar", name.encode())


def _embeddings(write: Write, name: str) -> None:
    for kind in ("img_emb", "metadata"):
        file = io.BytesIO()
        if kind == "img_emb":
            np.save(file, np.ones((2, 4), np.float32))
        else:
            pq.write_table(pa.table({"key": ["a", name]}), file)
        write(f"{kind}/{kind}_{name}.{'npy' if kind == 'img_emb' else 'parquet'}", file.getvalue())


SOURCES: dict[str, tuple[Callable[[str], Any], Callable[[Write, str], None]]] = {
    "folder": (lambda path: FolderSource(kind="folder", path=path), _tree),
    "url_list": (lambda path: UrlListSource(kind="url_list", path=path, format="csv"), _list),
    "webdataset": (lambda path: WebdatasetSource(kind="webdataset", path=path), _tar),
    "existing": (lambda path: ExistingEmbeddings(path=path, with_shards=False), _embeddings),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_growth_is_seen_at_an_address_of_any_characters(plain: type[PlainFileSystem], kind: str, name: str) -> None:
    make, add = SOURCES[kind]
    identities = []
    for base in (f"memory://{name}", f"memory://other/{name}"):
        for number in range(3):
            add(writer(base), f"{base.count('/')}{number}")
            identities.append(json.dumps(make(base).identity()["path"]))
    assert len({*identities}) == 6
    before = identities[2]
    add(writer("memory://ab"), "neighbour")  # which a pattern of the same characters would match
    add(writer("memory://2 cats"), "neighbour")
    assert json.dumps(make(f"memory://{name}").identity()["path"]) == before


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_the_identity_names(plain: type[PlainFileSystem], name: str) -> None:
    base = f"memory://{name}"
    for number in ("1", "2"):
        for _, add in SOURCES.values():
            add(writer(base), number)
    folder = FolderSource(kind="folder", path=base)
    images = [found.name for found in open_tree(base).walk() if found.name.endswith(".jpg")]
    assert sorted(images) == ["1.jpg", "2.jpg", "sub [1]/1.jpg", "sub [1]/2.jpg"]
    assert content_digests(base, images).keys() == {*images}
    assert sorted(list_folder(folder)[0]["url"].to_pylist()) == sorted(images)
    source = WebdatasetSource(kind="webdataset", path=base)
    with Webdataset(source, DownloadShardsConfig(source=source)).parts() as parts:
        assert [part.rpartition("/")[2] for part in parts.parts] == ["1.tar", "2.tar"]
    assert len(list_parts(ExistingEmbeddings(path=base, with_shards=False))) == 2


@pytest.mark.parametrize("name", [*NAMES, "plain name"])
def test_local_embeddings_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    for number in range(2):
        _embeddings(writer(str(tmp_path / name)), str(number))
        _embeddings(writer(str(tmp_path / "a1")), f"neighbour{number}")
    parts = list_parts(ExistingEmbeddings(path=str(tmp_path / name), with_shards=False))
    assert [part.image.rpartition("/")[2] for part in parts] == ["img_emb_0.npy", "img_emb_1.npy"]
