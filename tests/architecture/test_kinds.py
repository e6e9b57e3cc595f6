"""Every kind of model is in each place that needs one."""

import re
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config.messages import keys_of, models_in
from pipeline.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    "train_decoder": "docs/decoders.md",
    "train_autoencoder": "docs/decoders.md",
    "train_prior": "docs/prior.md",
}

WITHOUT_EXPERIMENT = {("train_prior", "autoregressive")}


def _kinds(stage: str) -> list[str]:
    sections = models_in(RunConfig.model_fields[stage].annotation)
    return [kind for section in sections for kind in get_args(keys_of(section).get("kind"))]


KINDS = [(stage, kind) for stage in DOCUMENTS for kind in _kinds(stage)]


@pytest.mark.parametrize(("stage", "kind"), KINDS)
def test_a_kind_is_documented(stage: str, kind: str) -> None:
    assert re.search(rf"`(kind: )?{kind}`", (ROOT / DOCUMENTS[stage]).read_text())


@pytest.mark.parametrize(("stage", "kind"), KINDS)
def test_a_kind_is_tested(stage: str, kind: str) -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert any(re.search(rf"[\"']{kind}[\"']|kind: {kind}\b", text) for text in sources)


def test_every_kind_has_an_experiment() -> None:
    files = [path.read_text() for path in (ROOT / "configs").rglob("*.yaml")]
    missing = {(stage, kind) for stage, kind in KINDS if not any(_uses(text, stage, kind) for text in files)}
    assert missing <= WITHOUT_EXPERIMENT


def _uses(text: str, stage: str, kind: str) -> bool:
    return re.search(rf"^{stage}:\s*({{)?\s*kind: {kind}\b|{stage}\.kind: {kind}\b", text, re.MULTILINE) is not None
