"""Fingerprints: what changes them, what does not, and what the plan says of it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cluster.session import this_machine
from pipeline.config.loading import load_config
from pipeline.config.schema import ClusterConfig, RunConfig
from pipeline.demands import Demands, demands_of
from pipeline.errors import UsageError
from pipeline.experiment import Experiment
from pipeline.plan import Plan, make_plan
from pipeline.report import plan_document, plan_table
from pipeline.results import new_record
from pipeline.run import check_experiment
from pipeline.store import Store
from stages.contract.recipes import recipe_of
from stages.formats.checkpoints import Checkpoint, write_checkpoint
from stages.storage.artifact import COMPLETE

CONSTANT = ["train_prior.training.schedule=constant", "train_prior.training.warmup_steps=0"]
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def _plan(store: Store, *overrides: str, name: str = "quickstart.yaml") -> Plan:
    return make_plan(load_config(CONFIGS / name, overrides), store)


def _changed(before: Plan, after: Plan) -> set[str]:
    return {name for name in before.stages if before.stages[name].fingerprint != after.stages[name].fingerprint}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("train_decoder.training.learning_rate=0.5", {"train_decoder", "generate", "evaluate"}),
        ("captions.fraction=0.5", {"train_prior", "generate", "evaluate"}),
        ("fit_gaussians.num_gaussians=3", {"fit_gaussians", "train_prior", "generate", "evaluate"}),
        ("download_shards.threads=2", set()),
        ("train_decoder.resources.num_workers=2", set()),
        ("train_decoder.training.zero_stage=2", set()),
        ("tracking.experiment=other", set()),
    ],
)
def test_a_key_changes_what_depends_on_it_alone(override: str, changed: set[str], store: Store) -> None:
    assert _changed(_plan(store), _plan(store, override)) == changed


def test_a_reused_stage_is_of_the_other_experiment_with_its_overrides(store: Store) -> None:
    words = ["reuse.train_prior.overrides=[seed=1, captions.fraction=0.5]"]
    plan, other = _plan(store, *words, name="language_free.yaml"), _plan(store, "seed=1", "captions.fraction=0.5")
    taken = plan.stages["train_prior"]
    assert taken.fingerprint == other.stages["train_prior"].fingerprint
    assert taken.fingerprint != _plan(store, name="language_free.yaml").stages["train_prior"].fingerprint
    assert taken.reused_from == f"{CONFIGS / 'quickstart.yaml'} seed=1 captions.fraction=0.5"  # as `corgi run` takes it
    with pytest.raises(UsageError, match=r"make it with `corgi run .*quickstart\.yaml seed=1 captions\.fraction=0\.5`"):
        check_experiment(
            Experiment.open(load_config(CONFIGS / "language_free.yaml", [*words, f"store={store.uri}"]), "")
        )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("[seed]", "not an override"),
        ("[seed=x]", "seed: found 'x'"),
        ("seed=1", r"overrides: found 'seed=1'; expected a list"),
    ],
)
def test_overrides_of_a_reused_stage_are_checked(word: str, message: str, store: Store) -> None:
    with pytest.raises(UsageError, match=message):
        _plan(store, f"reuse.train_prior.overrides={word}", name="language_free.yaml")


def test_secrets_in_overrides_of_a_reused_stage_are_not_recorded(store: Store) -> None:
    words = "[storage.options.s3.secret=hush-hush-1234, seed=1]"
    config = load_config(CONFIGS / "language_free.yaml", [f"reuse.train_prior.overrides={words}"])
    plan = make_plan(config, store)
    record = new_record(plan, "a.yaml", config.shown()).model_dump_json()
    assert "seed=1" in record
    assert "hush" not in record + str(plan.stages["train_prior"].reused_from)


REUSED = "download_shards: {source: {kind: scenes, num_images: 4}, image_size: 16}"


def _write_reusing(folder: Path, name: str, *others: str) -> Path:
    """Write an experiment that reuses a stage of each of others, all of them alike."""
    stages = ("embed_clip", "fit_gaussians")[: len(others)]
    reuse = "".join(f"  {stage}: {{config: {other}}}\n" for stage, other in zip(stages, others, strict=True))
    path = folder / name
    path.write_text(f"{REUSED}\nreuse:\n{reuse}" if others else REUSED)
    return path


@pytest.mark.parametrize(
    ("files", "loop"),
    [
        ({"a.yaml": "a.yaml"}, "a.yaml -> a.yaml"),
        ({"a.yaml": "b.yaml", "b.yaml": "c.yaml", "c.yaml": "b.yaml"}, "b.yaml -> c.yaml -> b.yaml"),
        ({"a.yaml": "a.yaml, overrides: [seed=1]"}, "a.yaml seed=1 -> a.yaml seed=1"),
    ],
)
def test_experiments_that_reuse_one_another_are_named(
    tmp_path: Path, store: Store, files: dict[str, str], loop: str
) -> None:
    for name, other in files.items():
        _write_reusing(tmp_path, name, other)
    with pytest.raises(UsageError, match=f"reuse: it takes from itself through {loop}; break the loop"):
        make_plan(load_config(tmp_path / "a.yaml"), store)


def test_each_experiment_is_planned_once_however_many_reuse_it(tmp_path: Path, store: Store) -> None:
    """Of twenty levels each takes two stages of the next: a million plans, were each made where it is asked for."""
    for level in range(20):
        _write_reusing(tmp_path, f"{level}.yaml", *[f"{level + 1}.yaml"] * 2)
    last = tmp_path / "20.yaml"
    last.write_text(f"extends: {CONFIGS / 'quickstart.yaml'}")
    plan = make_plan(load_config(tmp_path / "0.yaml"), store)
    assert plan.stages["fit_gaussians"].fingerprint == _plan(store).stages["fit_gaussians"].fingerprint


def test_more_experiments_in_a_row_than_anyone_means_are_refused(tmp_path: Path, store: Store) -> None:
    for level in range(40):
        _write_reusing(tmp_path, f"{level}.yaml", f"{level + 1}.yaml")
    with pytest.raises(UsageError, match=r"33\.yaml: reuse: more than 32 experiments in a row take from one another"):
        make_plan(load_config(tmp_path / "0.yaml"), store)


def test_a_file_is_identified_by_content_not_path(tmp_path: Path, store: Store) -> None:
    plans = []
    for folder in ("here", "there"):
        path = tmp_path / folder / "list.csv"
        path.parent.mkdir()
        path.write_text("url,caption\nhttp://a.example/1.png,one\n")
        source = f"{{kind: url_list, path: {path}, caption_column: caption}}"
        plans.append(_plan(store, f"download_shards.source={source}"))
    assert _changed(*plans) == set()
    path.write_text("url,caption\nhttp://a.example/2.png,one\n")
    assert "download_shards" in _changed(plans[0], _plan(store, f"download_shards.source={source}"))


def test_the_plan_shows_state_and_reason(store: Store) -> None:
    first = _plan(store)
    assert {stage.state for stage in first.stages.values()} == {"new"}
    for name in ("download_shards", "embed_clip"):
        store.output(name, first.stages[name].fingerprint).write_bytes(COMPLETE, b"")
    output = store.output("fit_gaussians", first.stages["fit_gaussians"].fingerprint)
    output.write_json("plan.json", {"units": 4})
    output.finish_unit("pass-0", {})
    plan = _plan(store)
    states = {name: (stage.state, stage.reason) for name, stage in plan.stages.items()}
    assert states["embed_clip"] == ("done", "complete in the store")
    assert states["fit_gaussians"] == ("partial", "1 of 4 units done")
    assert states["train_decoder"] == ("new", "never made with this config")
    assert not plan.is_done


def test_a_changed_key_is_named_against_the_latest_run(store: Store) -> None:
    config: RunConfig = load_config(CONFIGS / "quickstart.yaml")
    first = make_plan(config, store)
    store.write_run(new_record(first, "quickstart.yaml", {}))
    changed = _plan(store, "fit_gaussians.num_gaussians=3")
    assert changed.run != first.run
    assert changed.stages["fit_gaussians"].reason.startswith("num_gaussians: ")
    assert changed.stages["fit_gaussians"].reason.endswith("-> 3; input embed_clip is new")


def test_a_missing_file_is_reported(store: Store) -> None:
    with pytest.raises(UsageError, match=r"embed_clip: no file or folder at .*nowhere"):
        _plan(store, "clip.models.0.path=/nowhere/clip")


def test_language_free_takes_the_prior_of_the_quickstart(store: Store) -> None:
    theirs = _plan(store).stages["train_prior"].fingerprint
    plan = _plan(store, name="language_free.yaml")
    assert plan.stages["train_prior"].fingerprint == theirs
    assert "which has not made it yet" in plan.stages["train_prior"].reason


@pytest.mark.parametrize(
    ("override", "upstream"),
    [
        ("seed=0", ("download_shards",)),
        ("cluster.overlap=false", ()),
        ("download_shards.drop_duplicate_images=true", ()),  # which changes shards at the end
    ],
)
def test_the_plan_shows_which_stage_streams_from_which(override: str, upstream: tuple[str, ...], store: Store) -> None:
    plan = _plan(store, override)
    assert plan.stages["embed_clip"].streams_from == upstream
    assert ("takes the shards of download_shards" in plan.stages["embed_clip"].reason) == bool(upstream)
    assert all(not stage.streams_from for name, stage in plan.stages.items() if name != "embed_clip")


def test_nobody_follows_what_is_done(store: Store) -> None:
    done = _plan(store).stages["download_shards"]
    store.output("download_shards", done.fingerprint).write_bytes(COMPLETE, b"")
    assert _plan(store).stages["embed_clip"].streams_from == ()


def test_the_plan_shows_which_captions_each_stage_reads(store: Store) -> None:
    plan = _plan(store, "captions.fraction=0.25", "train_clip.captions.fraction=1", name="tiny_clip.yaml")
    document = {stage["name"]: stage["captions_fraction"] for stage in plan_document(plan, Demands())["stages"]}
    assert document == {"download_shards": None, "train_clip": 1.0}
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_table(_plan(store, "captions.fraction=0.25", name="tiny_clip.yaml"), Demands()))
    (line,) = [one for one in console.file.getvalue().splitlines() if "train_clip" in one]  # type: ignore[attr-defined]
    assert "25%" in line


def test_train_clip_depends_on_the_fraction(store: Store) -> None:
    plans = [_plan(store, f"captions.fraction={fraction}", name="tiny_clip.yaml") for fraction in (0.1, 1)]
    assert _changed(*plans) == {"train_clip"}


@pytest.mark.skipif(this_machine(4) is None, reason="on a machine with GPUs, Ray finds out what there is")
def test_the_plan_shows_what_stages_ask_for_and_refuses_what_the_machine_can_never_give(store: Store) -> None:
    plan = _plan(store)
    demands = demands_of(plan, ClusterConfig(num_cpus=4))
    assert demands.stages["embed_clip"] == "4 x 1 CPU"
    assert demands.stages["train_decoder"] == "1 x 4 CPU"
    assert demands.machines.startswith("4 CPUs")
    assert plan_document(plan, demands)["stages"][0]["asks_for"] == "4 x 1 CPU"
    with pytest.raises(
        UsageError, match=r"train_prior\.resources: 1 workers x 5 CPUs asked for, and the machines have 4"
    ):
        demands_of(_plan(store, "train_prior.resources.cpus_per_worker=5"), ClusterConfig(num_cpus=4))


def test_a_cluster_that_is_not_reached_is_no_reason_not_to_plan(store: Store) -> None:
    cluster = ClusterConfig(address="127.0.0.1:1")
    demands = demands_of(_plan(store, "train_prior.resources.num_workers=500"), cluster)
    assert demands.machines.startswith("not known: cluster.address: no Ray cluster responds at '127.0.0.1:1'")
    assert demands.stages["train_prior"] == "500 x some CPU"
    assert demands.stages["embed_clip"] == "as many as fit x some CPU"


def _half_made(store: Store, plan: Plan, name: str, step: int) -> None:
    """Leave what a stage leaves that ended after so many steps: its inputs, its recipe, its checkpoint."""
    stage = plan.stages[name]
    for source in stage.inputs:
        store.output(source, plan.stages[source].fingerprint).write_bytes(COMPLETE, b"")
    output = store.output(name, stage.fingerprint)
    recipe_of(stage.config, stage.identity, {one: plan.stages[one].fingerprint for one in stage.inputs}).write(output)
    write_checkpoint(output, Checkpoint(step, {}), keep=1)
    output.write_bytes(COMPLETE, b"")


def test_the_plan_names_what_a_longer_training_continues(store: Store) -> None:
    first = _plan(store, *CONSTANT, "train_prior.training.num_steps=60")
    store.write_run(new_record(first, "quickstart.yaml", {}))
    _half_made(store, first, "train_prior", 60)
    reason = _plan(store, *CONSTANT, "train_prior.training.num_steps=90").stages["train_prior"].reason
    assert reason == f"continues {first.run} from step 60, because only training.num_steps was raised"
    for other in ("train_prior.training.num_steps=50", "train_prior.training.batch_size=3"):
        assert "continues" not in _plan(store, *CONSTANT, other).stages["train_prior"].reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["train_prior.training.schedule=cosine", "train_prior.training.warmup_steps=0"],
            "it starts anew, as every rate of schedule cosine depends on",
        ),
        (
            [*CONSTANT, "train_prior.distillation={num_steps: 8}"],
            "it starts anew, as a distillation follows the last step",
        ),
        (CONSTANT, "it starts anew, as no checkpoint of fewer steps is kept"),
    ],
)
def test_the_plan_gives_the_reason_why_more_steps_start_anew(changes: list[str], words: str, store: Store) -> None:
    first = _plan(store, *changes, "train_prior.training.num_steps=60")
    store.write_run(new_record(first, "quickstart.yaml", {}))
    _half_made(store, first, "train_prior", 60)
    (store.output("train_prior", first.stages["train_prior"].fingerprint)).remove("units")
    reason = _plan(store, *changes, "train_prior.training.num_steps=90").stages["train_prior"].reason
    assert reason.startswith("training.num_steps: 60 -> 90; ")
    assert words in reason


def _trained(store: Store, plan: Plan, name: str) -> None:
    output = store.output(name, plan.stages[name].fingerprint)
    output.write_bytes("prior/model.safetensors", b"weights of " + plan.run.encode())
    output.write_bytes(COMPLETE, b"")


def test_a_training_may_begin_with_the_weights_of_a_run(store: Store) -> None:
    first = _plan(store)
    store.write_run(new_record(first, "quickstart.yaml", {}))
    with pytest.raises(UsageError, match=r"train_prior\.init_from: .*, a run that has not finished that stage"):
        _plan(store, f"train_prior.init_from={first.run}")
    _trained(store, first, "train_prior")
    plan = _plan(store, f"train_prior.init_from={first.run}", "train_prior.seed=7")
    folder = store.artifact("train_prior", first.stages["train_prior"].fingerprint).path("prior")
    assert getattr(plan.stages["train_prior"].config, "init_from") == folder  # noqa: B009  of its own kind's section
    assert plan.stages["train_prior"].reason.endswith(f"begins with the weights of {folder}")
    by_folder = _plan(store, f"train_prior.init_from={folder}", "train_prior.seed=7")
    assert _changed(plan, by_folder) == set()
    assert _changed(_plan(store, "train_prior.seed=7"), plan) == {"train_prior", "generate", "evaluate"}
    with pytest.raises(UsageError, match=rf"no run of the store .*runs there: {first.run}"):
        _plan(store, "train_prior.init_from=nowhere-12345678")
