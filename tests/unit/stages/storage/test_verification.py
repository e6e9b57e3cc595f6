"""Verification of an artifact whose training deletes old checkpoints meanwhile."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.storage.artifact import Artifact, Output
from stages.storage.checksums import FileSum
from stages.storage.verification import Verified, verify


class InTraining(Artifact):
    """Has an old checkpoint deleted once its record is listed, before that is read."""

    def glob(self, pattern: str) -> list[str]:
        found = super().glob(pattern)
        delete_old(self)
        return found


class LaterInTraining(Artifact):
    """Has an old checkpoint deleted once its record is read, before its files are."""

    def difference(self, name: str, expected: FileSum) -> str | None:
        delete_old(self)
        return super().difference(name, expected)


def delete_old(artifact: Artifact) -> None:
    output = Output(artifact.uri, artifact.stage, artifact.fingerprint)
    for name in ("units/old.json", "files/old"):
        output.remove(name)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    made = Output(str(tmp_path), "train_prior", "f0")
    for unit in ("old", "new"):
        with made.collecting():
            made.write_bytes(f"files/{unit}", b"w" * 99)
            made.finish_unit(unit, {})
    return made


def verified(artifact: Artifact) -> Verified:
    with ThreadPoolExecutor(1) as pool:
        return verify(artifact, pool)


@pytest.mark.parametrize("kind", [InTraining, LaterInTraining])
def test_a_checkpoint_that_is_deleted_meanwhile_is_no_damage(output: Output, kind: type[Artifact]) -> None:
    assert verified(kind(output.uri, "train_prior", "f0")).damaged == []
    (output_file,) = output.glob("files/*")
    Path(output.path(output_file)).unlink()
    assert [error.unit for error in verified(kind(output.uri, "train_prior", "f0")).damaged] == ["new"]


def test_a_file_that_is_deleted_once_it_is_listed_has_no_size(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
        listed = list(real(root))
        delete_old(output)
        yield from listed

    real = os.walk
    monkeypatch.setattr(os, "walk", walk)
    assert output.sizes() == {"files/new": 99}
