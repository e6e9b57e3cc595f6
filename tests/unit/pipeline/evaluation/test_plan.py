"""What an evaluation takes from the record of a run, whatever has become of what the run was made from."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.console import Terminal
from pipeline.errors import UsageError
from pipeline.evaluation.plan import AGAIN, plan_evaluation
from pipeline.evaluation.run import evaluate_again, evaluation_of
from pipeline.plan import Plan, make_plan
from pipeline.record import RunRecord
from pipeline.results import StageResult, close_record, new_record
from pipeline.store import Store
from pipeline.stored_models import with_stored_models
from tests.factories import save_tiny_clip

SMOKE = Path(__file__).parents[4] / "configs/smoke.yaml"
OPTIONS = "storage.options={s3: {key: AKIA, secret: sesame4711, endpoint_url: 'http://store:9000'}}"


class Finished:
    """A run of a folder of images and a CLIP in a folder, of whose artifacts there are the marks alone."""

    def __init__(self, folder: Path) -> None:
        self.images, self.clip = folder / "images", save_tiny_clip(folder / "clip")
        self.images.mkdir()
        for number in range(4):
            self.add(number)
        self.store = Store(str(folder / "store"))
        self.store.open_for_writing()
        words = [
            f"store={self.store.uri}", OPTIONS, f"download_shards.source={{kind: folder, path: {self.images}}}",
            "generate.prompts={kind: list, texts: [a star, a ring]}",
            f"clip.models=[{{kind: folder, path: {self.clip}}}]",
        ]  # fmt: skip
        self.record = self._leave(load_config(SMOKE, words))
        self.evaluated = self._leave(evaluation_of(self.store, self.record, ()), self.plan())

    def add(self, number: int) -> None:
        Image.new("RGB", (64, 64), (number * 7, 9, 9)).save(self.images / f"{number}.png")

    def plan(self, *words: str) -> Plan:
        config, recorded = (evaluation_of(self.store, self.record, given) for given in (words, ()))
        return plan_evaluation(config, recorded, self.record, self.store)

    def evaluate_again(self) -> str:
        return evaluate_again(self.store, self.record, (), Terminal(stderr=True)).run

    def _leave(self, config: RunConfig, plan: Plan | None = None) -> RunRecord:
        plan = make_plan(config, self.store) if plan is None else plan
        with_stored_models(plan, self.store)
        for stage in plan.stages.values():
            self.store.output(stage.name, stage.fingerprint).write_bytes("_COMPLETE", b"")
        results = {name: StageResult(name, "done") for name in plan.stages}
        record = new_record(plan, "smoke.yaml", config.shown())
        record = close_record(record, results, plan, self.store, status="done")
        self.store.write_run(record)
        return record


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    monkeypatch.setenv("FSSPEC_S3", '{"key": "mine"}')
    return Finished(tmp_path)


def test_a_run_is_evaluated_again_though_its_source_has_changed_or_is_gone(run: Finished) -> None:
    assert run.evaluate_again() == run.evaluated.run != run.record.run
    run.add(9)
    assert run.evaluate_again() == run.evaluated.run
    shutil.rmtree(run.images)
    assert run.evaluate_again() == run.evaluated.run
    plan = run.plan("generate.seed=7")
    assert {name for name, stage in plan.stages.items() if stage.state != "done"} == {*AGAIN}
    before = {name: entry.fingerprint for name, entry in run.record.plan.items() if name not in AGAIN}
    assert {name: stage.fingerprint for name, stage in plan.stages.items() if name not in AGAIN} == before


def test_the_variables_of_the_environment_hold_for_what_is_not_recorded(run: Finished) -> None:
    assert run.record.config["storage"]["options"]["s3"]["secret"] == "…"
    run.evaluate_again()
    assert os.environ["FSSPEC_S3"] == '{"key": "mine"}'


def test_models_whose_folders_are_gone_are_read_from_the_store(run: Finished, tmp_path: Path) -> None:
    shutil.rmtree(run.clip)
    assert run.evaluate_again() == run.evaluated.run
    plan = run.plan("generate.seed=7")
    assert plan.run == run.plan("generate.seed=7").run
    again = with_stored_models(plan, run.store)
    assert [stage.config for stage in again.stages.values()] == [stage.config for stage in plan.stages.values()]
    with pytest.raises(UsageError, match=r"evaluate: no file or folder at .*mistyped"):
        run.plan(f"evaluate.clip.models=[{{kind: folder, path: {tmp_path / 'mistyped'}}}]")


def test_what_the_run_made_has_to_be_there(run: Finished) -> None:
    prior = run.store.artifact("train_prior", run.record.plan["train_prior"].fingerprint)
    (Path(prior.uri) / "_COMPLETE").unlink()
    with pytest.raises(UsageError, match=r"train_prior is not complete in the store .* `corgi run smoke\.yaml`"):
        run.evaluate_again()
