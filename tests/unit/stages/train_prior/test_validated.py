"""Figures of validations have one protocol where they are of the same pairs, and others where they are not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.storage.artifact import Artifact, Output
from stages.train_prior import stage as train_prior
from tests.factories import make_context
from tests.unit.stages.train_prior.pieces import make_embeddings, prior_config

BOTH = {"human": 0.7, "pseudo": 0.3}


@pytest.fixture
def embeddings(tmp_path: Path) -> Output:
    return make_embeddings(tmp_path, pseudo=True)


def protocol(embeddings: Artifact, folder: Path, captions: Mapping[str, Any], **changes: Any) -> Mapping[str, str]:
    """Return the protocol of a figure of a prior that nothing is learned by."""
    output = Output(str(folder / "p"), "train_prior", "p0")
    config = prior_config("identity", captions=captions, **changes)
    summary = train_prior.run(config, {"embed_clip": embeddings}, output, make_context())
    return summary.protocols[summary.measures["cosine_true"].protocol]


def test_weights_of_a_mix_leave_the_pairs_that_are_validated_as_they_are(embeddings: Output, tmp_path: Path) -> None:
    alone = protocol(embeddings, tmp_path / "1", {"mix": {"human": 1, "pseudo": 0}})
    assert alone == protocol(embeddings, tmp_path / "2", {"mix": BOTH})
    assert alone["captions"].startswith("human, digest")


def test_other_pairs_have_another_protocol(embeddings: Output, tmp_path: Path) -> None:
    few: dict[str, Any] = {"validation": {"samples_per_caption": 2, "max_pairs": 8}}
    found = [
        protocol(embeddings, tmp_path / str(number), {"fraction": fraction, "mix": BOTH}, **few)
        for number, fraction in enumerate((1.0, 0.5, 0.0))
    ]
    assert len({one["validated"] for one in found}) == 3
    assert [one["captions"].partition(",")[0] for one in found] == ["human", "human", "pseudo"]
    parted = [
        protocol(embeddings, tmp_path / name, {}, split=split, **few)
        for name, split in {"a": {"validation": 0.4}, "b": {"validation": 0.2, "test": 0.2}}.items()
    ]
    assert parted[0] != parted[1], "which put the same images aside"
    more = protocol(embeddings, tmp_path / "c", {}, validation={"samples_per_caption": 2, "max_pairs": 9})
    assert more["validated"] != protocol(embeddings, tmp_path / "d", {}, **few)["validated"]


def test_other_captions_of_the_same_images_have_another_protocol(embeddings: Output, tmp_path: Path) -> None:
    one = protocol(embeddings, tmp_path / "1", {})
    other = protocol(make_embeddings(tmp_path / "o", caption="something else"), tmp_path / "2", {})
    assert {name for name in one if one[name] != other[name]} == {"captions"}
