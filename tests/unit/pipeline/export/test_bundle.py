"""Folders of models that strangers hand on: what bundle.json may say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.export.bundle import load_bundle
from pipeline.export.names import BUNDLE, is_bundle
from stages.contract.errors import ArtifactError
from stages.inference.sampling import SamplingSettings
from tests.factories import save_tiny_bundle

SETTINGS = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=2))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bundle(tmp_path_factory.mktemp("made"), SETTINGS, batch_size=5)


def test_what_was_written_is_read_back(bundle: Path) -> None:
    system, run = load_bundle(bundle)
    assert (run, system.batch_size, system.settings) == ("tiny-1", 5, SETTINGS)
    assert is_bundle(str(bundle))
    assert not is_bundle(str(bundle / "prior"))


def test_a_bundle_of_an_earlier_version_has_the_usual_batch(bundle: Path, tmp_path: Path) -> None:
    change(bundle, tmp_path / "b", lambda document: document.pop("batch_size"))
    assert load_bundle(tmp_path / "b")[0].batch_size == 64


def change(bundle: Path, target: Path, how: Any) -> None:
    shutil.copytree(bundle, target)
    document = json.loads((target / BUNDLE).read_text())
    how(document)
    (target / BUNDLE).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "bundle format 2, and this version reads 3"),
        ({"format": [3]}, "bundle format"),
        (
            {"clip": {"models": [{"kind": "folder", "path": "../../clip"}]}},
            r"the path \.\./\.\./clip leaves the folder",
        ),
        ({"clip": {"models": [{"kind": "folder", "path": "/etc"}]}}, "the path /etc leaves the folder"),
        ({"clip": {"models": [{"kind": "folder", "path": 3}]}}, "the path 3 leaves the folder"),
        (
            {"clip": {"models": [], "images": {"kind": "timm", "path": "../images"}}},
            r"the path \.\./images leaves the folder",
        ),
        (
            {
                "clip": {
                    "models": [{"kind": "folder", "path": "clip/0"}],
                    "images": {"kind": "pickle", "path": "images"},
                }
            },
            "images Input tag 'pickle' found using 'kind'",
        ),
        ({"clip": {"models": []}}, "models"),
        ({"clip": {"models": [{"kind": "folder", "path": "clip/0", "trust_remote_code": True}]}}, "trust_remote_code"),
        ({"t5": {"path": "../t5"}}, "leaves the folder"),
        ({"upsamplers": 10**9}, "upsamplers"),
        ({"upsamplers": -1}, "upsamplers"),
        ({"batch_size": 10**9}, "batch_size"),
        ({"settings": {"decoder_steps": 10**9}}, "num_steps"),
        ({"settings": {"shell": "x"}}, "found shell"),
        ({"run": "r" * 10_000}, "run"),
        ({"more": 1}, "more"),
    ],
)
def test_what_a_stranger_writes_is_refused_in_a_sentence(
    bundle: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    change(bundle, tmp_path / "b", lambda document: document.update(changes))
    with pytest.raises(ArtifactError, match=words):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff{", b"[" * 100_000, b'{"format": 3}'])
def test_a_damaged_document_is_refused_in_a_sentence(bundle: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / BUNDLE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bundle"):
        load_bundle(tmp_path / "b")


def test_an_empty_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BUNDLE).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert [is_bundle(name) for name in (".", str(tmp_path), "", " ", "a\0b")] == [True, True, False, False, False]
