"""What kept runs need beyond their own artifacts: what these began with. Records are those that runs leave."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.gc.garbage import Choice, find_garbage
from pipeline.gc.removal import remove
from pipeline.plan import Plan, make_plan
from pipeline.record import RunRecord, Status
from pipeline.results import StageResult, close_record, new_record
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.recipes import Recipe, recipe_of
from stages.contract.runner import run_stage
from stages.contract.stage import StageSummary
from stages.download_shards.stage import run as run_download
from tests.factories import interrupt_after, make_context, make_record

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
LAST = Choice(keep_last=1)
ALL = Choice(keep_last=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.open_for_writing()
    return store


def names(store: Store, choice: Choice) -> set[str]:
    return {f"{item.folder.stage}/{item.folder.fingerprint}" for item in find_garbage(store, choice).items}


def collect(store: Store, choice: Choice) -> None:
    assert [why for _, why in remove(store, find_garbage(store, choice)) if why] == []


class Training:
    """The smoke config on a store, of which nothing is run, but for the files that planning looks for."""

    def __init__(self, store: Store) -> None:
        self.store, self._day = store, 0

    def config(self, name: str, *words: str) -> RunConfig:
        return load_config(CONFIGS / "smoke.yaml", [f"store={self.store.uri}", f"name={name}", *words])

    def plan(self, name: str, *words: str) -> Plan:
        return make_plan(self.config(name, *words), self.store)

    def run(self, name: str, *words: str, status: Status = "done") -> RunRecord:
        """Leave what a run leaves; one that is not done has a checkpoint of its decoder."""
        plan = self.plan(name, *words)
        for stage in plan.stages.values():
            output = self.store.output(stage.name, stage.fingerprint)
            if stage.name == "train_decoder":
                output.write_bytes("decoder/config.json", f'{{"of": "{name}"}}'.encode())
            if stage.name == "train_prior":
                output.write_bytes("prior/config.json", b"{}")
            if status == "done" or stage.name in ("download_shards", "embed_clip", "fit_gaussians"):
                output.write_bytes("_COMPLETE", b"")
            elif stage.name == "train_decoder":
                output.write_bytes("units/checkpoint_00000004.json", b'{"step": 4, "parts": []}')
        self._day += 1
        record = new_record(plan, "x.yaml", self.config(name, *words).shown())
        record = record.model_copy(update={"started": f"2026-01-{self._day:02}T00:00:00+00:00"})
        results = {stage: StageResult(stage, "done") for stage in plan.stages} if status == "done" else {}
        record = close_record(record, results, plan, self.store, status=status)
        self.store.write_run(record)
        return record


@pytest.fixture
def training(store: Store) -> Training:
    return Training(store)


@pytest.mark.parametrize("status", ["interrupted", "done"])
def test_a_run_whose_weights_a_kept_run_begins_with_stays_with_them(training: Training, status: Status) -> None:
    store, seeds = training.store, ["generate.seed=7", "train_prior.seed=7"]
    first = training.run("first", *seeds)
    words = [f"train_decoder.init_from={first.run}", "train_decoder.seed=5"]
    second = training.run("second", *words)
    words = [f"train_decoder.init_from={second.run}", "train_decoder.seed=6"]
    third = training.run("third", *words, status=status)
    collect(store, LAST)
    assert store.run_names() == sorted([first.run, second.run, third.run])
    assert training.plan("third", *words).run == third.run
    decoders = {one.fingerprint for one in store.artifacts(["train_decoder"])}
    assert decoders == {one.plan["train_decoder"].fingerprint for one in (first, second, third)}
    for stage in ("train_prior", "generate"):  # nothing begins with these
        assert not store.artifact(stage, first.plan[stage].fingerprint).is_complete
    assert names(store, Choice()) == set()
    collect(store, ALL)  # whoever names a run goes before that one
    assert store.run_names() == []
    assert not list(store.artifacts(["train_decoder"]))


def test_a_run_is_forgotten_by_name_with_those_that_begin_with_it_alone(training: Training) -> None:
    first = training.run("first")
    second = training.run("second", f"train_decoder.init_from={first.run}")
    with pytest.raises(
        UsageError, match=rf"run {second.run}, which is kept, .*train_decoder\.init_from\): forget both"
    ):
        find_garbage(training.store, Choice(runs=("first",)))
    shown = CliRunner().invoke(app, ["gc", "--store", training.store.uri, "--keep-last", "1"])
    assert f"kept: run {first.run}: its record and its train_decoder stay, as run {second.run} begins" in shown.stdout
    collect(training.store, Choice(runs=("first", "second")))
    assert training.store.run_names() == []


def test_a_run_that_another_begins_with_since_is_left_with_what_that_needs(training: Training) -> None:
    first = training.run("first")
    garbage = find_garbage(training.store, ALL)
    second = training.run("second", f"train_decoder.init_from={first.run}", status="interrupted")
    found = {item.folder.stage: why for item, why in remove(training.store, garbage)}
    assert found["runs"] == f"run {second.run} begins with its weights"
    assert found["train_decoder"] == "a run needs it that has begun since"
    assert training.plan("second", f"train_decoder.init_from={first.run}").run == second.run


def test_weights_that_are_named_by_their_folder_in_the_store_stay(training: Training, tmp_path: Path) -> None:
    first = training.run("first")
    folder = training.store.artifact("train_decoder", first.plan["train_decoder"].fingerprint).path("decoder")
    (tmp_path / "elsewhere").symlink_to(training.store.uri)
    linked = folder.replace(training.store.uri, str(tmp_path / "elsewhere"))
    for address in (folder, linked):
        second = training.run("second", f"train_decoder.init_from={address}", status="failed")
        collect(training.store, LAST)
        assert training.plan("second", f"train_decoder.init_from={address}").run == second.run
    assert training.store.run_names() == [second.run]


def test_a_checkpoint_that_an_unfinished_training_may_go_on_from_stays(training: Training) -> None:
    store, steps = training.store, "train_decoder.training.schedule=constant"
    first = training.run("first", steps)
    output = store.output("train_decoder", first.plan["train_decoder"].fingerprint)
    planned = training.plan("first", steps).stages["train_decoder"]
    inputs = {name: first.plan[name].fingerprint for name in planned.inputs}
    recipe_of(planned.config, planned.identity, inputs).write(output)
    second = training.run("second", steps, "train_decoder.training.num_steps=24", status="interrupted")
    first_decoder, own = (f"train_decoder/{one.plan['train_decoder'].fingerprint}" for one in (first, second))
    assert first_decoder != own
    assert names(store, LAST).isdisjoint({first_decoder, own})
    store.output("train_decoder", own.partition("/")[2]).write_bytes("_COMPLETE", b"")
    assert first_decoder in names(store, LAST)


class Growing:
    """A folder of images, and its shards."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self._images = store, folder / "images"
        self._images.mkdir()
        self._file = folder / "grown.yaml"
        source = f"{{kind: folder, path: {self._images}}}"
        self._file.write_text(f"download_shards: {{source: {source}, rows_per_shard: 4, image_size: 32}}\n")

    def add(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            image = Image.new("RGB", (32, 32), (number * 7 % 255, number * 13 % 255, 9))
            image.save(self._images / f"{number:03}.png")

    def plan(self) -> Plan:
        return make_plan(load_config(self._file), self.store)

    def run(self, day: int, *, units: int | None = None) -> RunRecord:
        """Run it; with ``units``, it is interrupted after so many."""
        plan = self.plan()
        stage = plan.stages["download_shards"]
        output = self.store.output(stage.name, stage.fingerprint)
        context = make_context() if units is None else make_context(map_shards=interrupt_after(units))
        record = new_record(plan, str(self._file), load_config(self._file).shown())
        record = record.model_copy(update={"started": f"2026-01-{day:02}T00:00:00+00:00"})
        try:
            run_stage(run_download, stage.config, inputs={}, output=output, context=context, identity=stage.identity)
        except KeyboardInterrupt:
            return self._closed(record, plan, "interrupted")
        return self._closed(record, plan, "done")

    def _closed(self, record: RunRecord, plan: Plan, status: Status) -> RunRecord:
        record = close_record(record, {}, plan, self.store, status=status)
        self.store.write_run(record)
        return record


def test_shards_that_an_unfinished_run_has_grown_from_stay_until_it_is_done(store: Store, tmp_path: Path) -> None:
    growing = Growing(store, tmp_path)
    growing.add(range(12))
    first = growing.run(1)
    growing.add(range(12, 16))
    second = growing.run(2, units=2)
    assert second.status == "interrupted"
    collect(store, LAST)
    assert store.run_names() == [second.run]
    again = growing.plan()
    assert again.run == second.run
    assert again.stages["download_shards"].state == "partial"
    assert names(store, Choice()) == set()
    assert growing.run(3).status == "done"
    assert names(store, Choice()) == {f"download_shards/{first.plan['download_shards'].fingerprint}"}
    collect(store, Choice())
    assert growing.plan().run == second.run


def test_a_fit_that_an_unfinished_one_begins_with_stays_with_all_by_which_it_is_found(store: Store) -> None:
    made = {"download_shards/s0": {}, "download_shards/s1": {}, "download_shards/s2": {}, "download_shards/s9": {},
            "embed_clip/e0": {"download_shards": "s0"}, "embed_clip/e2": {"download_shards": "s2"},
            "fit_gaussians/f0": {"embed_clip": "e0"}}  # fmt: skip
    begun = {"download_shards/s2": "s1", "download_shards/s1": "s0"}
    for name, inputs in made.items():
        stage, _, fingerprint = name.partition("/")
        output = store.output(stage, fingerprint)
        Recipe(recipe="r", source=fingerprint, grown_from=begun.get(name)).write(output)
        Manifest(
            stage=stage, fingerprint=fingerprint, code_version=1, config={}, inputs=inputs, summary=StageSummary(0)
        ).write(output)
        output.write_bytes("_COMPLETE", b"")
    plan = {"download_shards": {"fingerprint": "s2", "identity": {"grown_from": "s1"}},
            "embed_clip": {"fingerprint": "e2", "identity": {}},
            "fit_gaussians": {"fingerprint": "f2", "identity": {"grown_from": "f0"}}}  # fmt: skip
    store.write_run(make_record("b-1", status="interrupted", plan=plan))
    assert names(store, Choice()) == {"download_shards/s9"}
    store.output("fit_gaussians", "f2").write_bytes("_COMPLETE", b"")
    assert names(store, Choice()) == {*made} - {"download_shards/s2", "embed_clip/e2"}
