from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.console import Terminal
from pipeline.errors import UsageError
from pipeline.evaluation.run import evaluate_again, evaluation_of, figures_table
from pipeline.record import RunRecord
from pipeline.store import Store
from tests.factories import make_entry, make_record

SMOKE = Path(__file__).parents[4] / "configs/smoke.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def record(store: Store) -> RunRecord:
    config = load_config(SMOKE, [f"store={store.uri}"]).shown()
    return make_record("smoke-1", name="smoke", config=config, stages=[make_entry("evaluate")])


def test_the_models_of_an_evaluation_are_those_of_the_run(store: Store, record: RunRecord) -> None:
    words = ["evaluate.features={kind: clip}", "generate.prompts={kind: list, texts: [a star]}"]
    before, after = (evaluation_of(store, record, given) for given in ((), words))
    assert before.name == after.name == "smoke-evaluated"
    changed = {name for name, section in after.stages().items() if section != before.stages()[name]}
    assert changed == {"generate", "evaluate"}
    by_kind = evaluation_of(store, record, ["evaluate.features.kind=clip"])
    assert by_kind.stages()["evaluate"] == after.stages()["evaluate"]
    assert before.stages() == load_config(SMOKE, [f"store={store.uri}"]).stages()


def test_an_evaluation_changes_no_training_and_trains_nothing(store: Store, record: RunRecord) -> None:
    with pytest.raises(
        UsageError, match=r"train_prior\.seed: an evaluation trains nothing: allowed are keys of generate"
    ):
        evaluation_of(store, record, ["train_prior.seed=3"])
    with pytest.raises(UsageError, match=r"run smoke-1: .*evaluate\.features"):
        evaluation_of(store, record, ["evaluate.features.kind=vgg"])
    with pytest.raises(UsageError, match=r"run smoke-1: download_shards, .* are not complete in the store"):
        evaluate_again(store, record, (), Terminal(stderr=True))


def test_the_table_shows_intervals_and_numbers() -> None:
    measure = {"value": 4.5, "low": 4.0, "high": 5.0, "n": 1240, "protocol": "a"}
    record = make_record(
        "one-1", metrics={"evaluate/fid": 4.5, "evaluate/chance/color": 0.125}, measures={"evaluate/fid": measure}
    )
    table = figures_table(record)
    assert [[str(cell) for cell in column.cells] for column in table.columns][1:] == [
        ["0.125", "4.5"],
        ["", "4 to 5"],
        ["", "1,240"],
    ]
