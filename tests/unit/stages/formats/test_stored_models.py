"""Models in the store: complete or not there, the same bytes, found from any artifact beside them."""

import hashlib
from pathlib import Path

import pytest

from stages.contract.digests import content_digest, folder_digest
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.stored_models import StoredModel, is_stored, local_model, model_in, store_model, store_of
from stages.storage.artifact import Artifact, Output

FILES = {"config.json": b"{}", "weights.safetensors": b"\x01\x02", "part/a.txt": b"a", "part.b": b"b"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    (tmp_path / "model" / "README.md").write_text("no part of the model")
    return tmp_path / "model"


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("remote", [False, True])
def test_a_stored_model_has_the_bytes_of_its_folder(folder: Path, tmp_path: Path, remote: bool) -> None:
    store, digest = (f"memory://{tmp_path.name}" if remote else str(tmp_path / "store")), content_digest(folder)
    model = model_in(store, digest)
    assert not is_stored(model)
    store_model(store, folder, digest)
    assert is_stored(model)
    assert read(local_model(model)) == FILES
    assert content_digest(local_model(model)) == digest


def test_what_is_never_loaded_is_left_out_but_counts_in_the_digest(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.bin").write_bytes(b"pickled")
    digest = content_digest(folder)
    store_model(str(tmp_path / "store"), folder, digest, without=("*.bin",))
    assert read(local_model(model_in(str(tmp_path / "store"), digest))) == FILES


def test_what_is_hidden_is_not_stored(folder: Path, tmp_path: Path) -> None:
    digest = content_digest(folder)
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    for name in (".DS_Store", ".cache/huggingface/config.json.metadata"):
        (folder / name).write_text("1700000000.1")
    store_model(str(tmp_path / "store"), folder, content_digest(folder))
    assert content_digest(folder) == digest
    assert read(local_model(model_in(str(tmp_path / "store"), digest))) == FILES


def test_a_model_that_was_stored_with_hidden_files_is_read_by_its_digest(folder: Path, tmp_path: Path) -> None:
    contents = FILES | {".DS_Store": b"1", ".cache/huggingface/config.json.metadata": b"1700000000.1"}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    store, digest = str(tmp_path / "store"), folder_digest(sums)
    output = Output(model_in(store, digest).uri, "models", digest)
    for name, content in contents.items():
        with output.writing(f"files/{name}") as file:
            file.write_bytes(content)
    StoredModel(name="model", files=sums).write(output)
    assert is_stored(model_in(store, digest))
    assert read(local_model(model_in(store, digest))) == contents
    store_model(store, folder, digest)  # whole, and so not stored again
    assert read(local_model(model_in(store, digest))) == contents


def test_a_folder_that_changes_meanwhile_is_not_stored(folder: Path, tmp_path: Path) -> None:
    digest = content_digest(folder)
    (folder / "config.json").write_bytes(b"[]")
    with pytest.raises(InputFault, match="changed while they were copied"):
        store_model(str(tmp_path / "store"), folder, digest)
    assert not is_stored(model_in(str(tmp_path / "store"), digest))


@pytest.mark.parametrize(("name", "found"), [("files/weights.safetensors", b"\x01\x03"), ("model.json", None)])
def test_a_rotten_byte_names_its_file(folder: Path, tmp_path: Path, name: str, found: bytes | None) -> None:
    store, digest = str(tmp_path / "store"), content_digest(folder)
    store_model(store, folder, digest)
    rotten = tmp_path / "store" / "models" / digest / name
    rotten.write_bytes(found or rotten.read_bytes().replace(b'"part.b"', b'"part.c"'))
    with pytest.raises(ArtifactError, match=f"models/{digest}/{name}: its bytes are not those"):
        local_model(model_in(store, digest))
    store_model(store, folder, digest)
    assert read(local_model(model_in(store, digest))) == FILES


@pytest.mark.parametrize("files", [{"a": "zz"}, {"a": "00"}, {}])
def test_a_description_by_another_hand_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    model = model_in(str(tmp_path), hashlib.sha256().hexdigest())  # that of no files
    Output(model.uri, "models", model.fingerprint).write_json("model.json", {"name": "m", "files": files})
    with pytest.raises(ArtifactError, match=r"model\.json: "):
        local_model(model)


def test_an_artifact_knows_its_store() -> None:
    assert store_of(Artifact("s3://bucket/x/artifacts/train_prior/f0", "train_prior", "f0")) == "s3://bucket/x"
    assert store_of(Artifact("/some/bundle", "bundle", "f0")) is None
