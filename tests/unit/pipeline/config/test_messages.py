"""Faults in sections and in the dataclasses embedded in them: the words and the dotted keys."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import pytest
from pydantic import Field, ValidationError

from models.fields import require
from pipeline.config.messages import describe, keys_of, models_in
from pipeline.config.renamed import RENAMED
from pipeline.config.schema import RunConfig
from stages.contract.config import ConfigModel
from stages.contract.digests import content_digest


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A part of a spec."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    num_steps: int = 1000


@dataclass(frozen=True, kw_only=True)
class Wide:
    """One kind of spec."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    kind: Literal["wide"] = "wide"
    width: int = 3
    channels: tuple[int, ...] = (1, 2)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        """Refuse an even width."""
        require(self, "width", self.width % 2 == 1, "an odd number")


@dataclass(frozen=True, kw_only=True)
class Deep:
    """The other kind."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    kind: Literal["deep"] = "deep"
    depth: int


class Section(ConfigModel):
    """A stage's section."""

    network: Annotated[Wide | Deep, Field(discriminator="kind")] = Wide()
    schedule: Schedule = Schedule()
    weights: Path | None = None


class Experiment(ConfigModel):
    """The whole of a file."""

    train: Section = Section()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"network": {"kind": "wide", "widht": 3}},
         "train.network.widht: unknown key; did you mean 'width'? allowed: channels, kind, schedule, width"),
        ({"network": {"kind": "wide", "schedule": {"steps": 3}}},
         "train.network.schedule.steps: unknown key; did you mean 'num_steps'? allowed: num_steps"),
        ({"network": {"kind": "wide", "width": "many"}},
         "train.network.width: found 'many'; input should be a valid integer, unable to parse string as an integer"),
        ({"network": {"kind": "wide", "width": 4}}, "train.network.width: found 4: expected an odd number"),
        ({"network": {"kind": "deep"}}, "train.network.depth: is missing; set it"),
        ({"network": {"kind": "tall"}}, "train.network.kind: found 'tall'; allowed: 'wide', 'deep'"),
        ({"network": {"width": 3}}, "train.network.kind: is missing; allowed: 'wide', 'deep'"),
        ({"schedule": {"num_stepz": 3}},
         "train.schedule.num_stepz: unknown key; did you mean 'num_steps'? allowed: num_steps"),
        ({"schedule": 5}, "train.schedule: found 5; allowed: a mapping of num_steps"),
        ("all", "train: found 'all'; allowed: a mapping of network, schedule, weights"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_dotted_key(section: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate({"train": section})
    assert describe(caught.value, Experiment, "file.yaml") == f"file.yaml: {words}"


def test_an_embedded_spec_enters_the_identity_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    section = Section.model_validate({"network": {"kind": "wide", "width": 5}, "weights": tmp_path / "weights"})
    identity = section.identity()
    network = {"kind": "wide", "width": 5, "channels": [1, 2], "schedule": {"num_steps": 1000}}
    assert identity["network"] == network
    assert identity["schedule"] == {"num_steps": 1000}
    assert identity["weights"] == content_digest(tmp_path / "weights")
    assert section.model_dump(mode="json")["network"] == network


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_reported_with_its_new_name(old: str, new: str) -> None:
    parents, _, name = old.rpartition(".")
    reports = []
    for tree in _trees(RunConfig, parents.split("."), {name: 1}):
        with pytest.raises(ValidationError) as caught:
            RunConfig.model_validate(tree)
        reports.append(describe(caught.value, RunConfig, "file.yaml"))
    assert any(f"{old}: unknown key; did you mean {new!r}?" in report for report in reports)


def _trees(model: Any, path: list[str], leaf: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a section for each variant that has the path; at its end lies ``leaf``."""
    kinds = get_args(keys_of(model).get("kind"))
    tree: dict[str, Any] = {"kind": kinds[0]} if kinds else {}
    if not path:
        yield tree | leaf
    elif path[0] in keys_of(model):
        for below in models_in(keys_of(model)[path[0]]):
            yield from (tree | {path[0]: inner} for inner in _trees(below, path[1:], leaf))
