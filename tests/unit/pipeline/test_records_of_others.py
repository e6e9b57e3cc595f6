"""Records of other versions, or by another hand: what is not known of a run is left out, and all else is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse
from typer.testing import CliRunner

from pipeline.captions import caption_fraction, pseudo_weight
from pipeline.cli import app
from pipeline.dashboard.protocol_groups import against_fraction
from pipeline.dashboard.runs import run_document, run_table
from pipeline.dashboard.units import UnitStates
from pipeline.errors import UsageError
from pipeline.outbox.kept import start_delivery
from pipeline.splits import split_of
from pipeline.store import Store
from tests.factories import make_entry, make_record

HUGE = 10**400
COMMANDS = (["status"], ["status", "tiny"], ["compare", "tiny"], ["compare", "tiny", "--all"], ["inspect", "tiny"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    made.open_for_writing()
    return made


def identity(stage: str = "train_prior", **fields: Any) -> dict[str, Any]:
    entries = [make_entry(stage)]
    return {"plan": {stage: {"fingerprint": "f", "identity": fields}}, "stages": entries, "artifacts": {stage: "x"}}


@pytest.mark.parametrize(
    "changes",
    [
        identity(split={"validation": 0.1, "test": 0.0, "seed": 0, "by": "keys"}),
        identity(split={"validation": HUGE}),
        identity(captions={}),
        identity(captions={"fraction": "x"}),
        identity(captions={"fraction": HUGE}),
        identity(captions={"fraction": 1.0, "mix": {"human": 0, "pseudo": 0}}),
        identity(captions={"fraction": 1.0, "mix": {"human": 1}}),
        identity("train_decoder"),
        identity("train_decoder", kind=["a"]),
        identity("train_decoder", kind="of another version"),
        identity("train_upsampler", kind="diffusion"),
        {"overhead_seconds": 1.0},
        {"metrics": {"train_prior/loss": float("nan"), "evaluate/clip_score/conditioning": float("inf")}},
    ],
)  # fmt: skip
def test_what_another_version_recorded_is_shown_without_what_is_not_known(
    store: Store, tmp_path: Path, changes: dict[str, Any]
) -> None:
    store.write_run(make_record(**changes))
    report = ["report", "tiny", "--out", str(tmp_path / "a.html")]
    for words in (*COMMANDS, report):
        done = CliRunner().invoke(app, [*words, "--store", store.uri])
        assert done.exit_code == 0, (words, done.exception)
    for words in (["status"], ["status", "tiny"], ["compare", "tiny"]):
        done = CliRunner().invoke(app, [*words, "--json", "--store", store.uri])
        json.loads(done.stdout, parse_constant=pytest.fail)
    (record,) = store.runs()
    for shown in (run_table(store), run_document(record, store, UnitStates())):
        JSONResponse(jsonable_encoder(shown))  # which refuses what JSON has not
    for name in record.metrics:
        JSONResponse(against_fraction([record], name))


def test_what_is_known_of_an_identity_is_read() -> None:
    captions = {"fraction": 0.5, "mix": {"human": 1, "pseudo": 3}}
    assert caption_fraction({"captions": captions}) == 0.5
    assert pseudo_weight({"captions": captions}) == 0.75
    for odd in (-1, True, "1", None, HUGE, float("nan")):
        assert pseudo_weight({"captions": {"mix": {"human": odd, "pseudo": 1}}}) is None
    found = split_of({"split": {"validation": 0.25}})
    assert found is not None
    assert found.validation == 0.25
    assert split_of({"split": {"parts": 3}}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"a/b": HUGE}},
        {"seconds": float("inf")},
        {"stages": [make_entry("generate", seconds=float("nan"))]},
        {"stages": [make_entry("generate", made=HUGE)]},
        {"stages": [make_entry("generate", counts={"images": HUGE})]},
    ],
)
def test_numbers_that_no_run_has_are_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected the record of a run as this version writes it"):
        make_record(**changes)


@pytest.mark.parametrize("tracking", [None, 5, {}])
def test_a_configuration_without_tracking_is_sent_to_the_usual_experiment(store: Store, tracking: Any) -> None:
    said: list[str] = []
    record = make_record(config={"tracking": tracking})
    delivery = start_delivery(record, store, f"sqlite:///{store.uri}/mlflow.db", None, said.append)
    assert delivery.close(60) == 0
