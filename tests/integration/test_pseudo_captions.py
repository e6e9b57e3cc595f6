"""A folder of images of which two have captions: a tiny BLIP captions them, a CLIP embeds all, and a prior learns."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from cluster.training import launch_in_process
from pipeline.config.loading import load_config
from pipeline.plan import Plan, make_plan
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.runner import run_stage
from stages.formats.pseudo_captions import Captioner
from stages.storage.artifact import Artifact
from tests.factories import make_context, save_image
from tests.tiny_captioners import save_tiny_captioner

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def write_experiment(folder: Path, *, images: int) -> Path:
    photographs = folder / "photographs"
    for number in range(images):
        save_image(photographs / f"{number:03d}.png", color=(number * 9 % 256, 90, 200 - number))
    for number in (0, 1):
        (photographs / f"{number:03d}.txt").write_text("a red star")
    experiment = {
        "split": {"validation": 0.3},
        "captions": {"fraction": 1.0},
        "clip": {"models": [{"kind": "folder", "path": str(CONFIGS / "assets" / "tiny_clip")}]},
        "download_shards": {
            "source": {"kind": "folder", "path": str(photographs)}, "image_size": 64, "rows_per_shard": 8,
        },
        "caption_images": {
            "model": {"path": str(folder / "blip")}, "max_new_tokens": 4, "temperature": 1.0, "num_captions": 2,
        },
        "embed_clip": {},
        "fit_gaussians": {"num_gaussians": 2},
        "train_prior": {
            "kind": "gaussian",
            "training": {
                "num_steps": 2, "batch_size": 4, "learning_rate": 0.001, "warmup_steps": 1, "validation_interval": 2,
            },
            "validation": {"num_steps": [1]},
        },
    }  # fmt: skip
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(experiment))
    return file


def run(plan: Plan, store: Store) -> dict[str, Artifact]:
    """Run all stages of a plan in this process."""
    context, made = replace(make_context(), launch_training=launch_in_process), dict[str, Artifact]()
    for stage in plan.stages.values():
        output = store.output(stage.name, stage.fingerprint)
        inputs = {source: made[source] for source in stage.inputs}
        if not output.is_complete:
            step = importlib.import_module(f"stages.{stage.name}.stage").run
            run_stage(step, stage.config, inputs=inputs, output=output, context=context, identity=stage.identity)
        made[stage.name] = store.artifact(stage.name, stage.fingerprint)
    return made


def test_two_captions_and_a_captioner_are_enough_for_a_prior(tmp_path: Path) -> None:
    save_tiny_captioner(tmp_path / "blip")
    file = write_experiment(tmp_path, images=24)
    store = Store(str(tmp_path / "store"))
    plan = make_plan(load_config(file), store)
    assert list(plan.stages)[:3] == ["download_shards", "caption_images", "embed_clip"]
    made = run(plan, store)
    counts = {name: Manifest.of(one).summary.counts for name, one in made.items()}
    assert (counts["download_shards"]["images"], counts["download_shards"]["captioned"]) == (24, 2)
    assert counts["caption_images"]["pseudo_captioned"] == counts["embed_clip"]["pseudo_captioned"] == 24
    prior = Manifest.of(made["train_prior"]).summary
    assert (prior.counts["captioned"], prior.counts["pseudo_captioned"]) == (2, 24)
    assert prior.notes["validated_on"].startswith("pseudo-captions, as fewer than two")
    assert Captioner.of(made["embed_clip"]) == Captioner.of(made["caption_images"])

    human = make_plan(load_config(file, ["captions.mix={human: 1, pseudo: 0}"]), store)
    assert human.stages["embed_clip"].state == "done"
    assert human.stages["train_prior"].state == "new"

    write_experiment(tmp_path, images=26)
    grown = run(make_plan(load_config(file), store), store)
    for name in ("caption_images", "embed_clip"):
        assert Manifest.of(grown[name]).summary.counts["reused_shards"] == 3, name
        assert grown[name].fingerprint != made[name].fingerprint
    table = "pseudo_captions/pseudo_captions_00000.parquet"
    before, after = (Path(one["caption_images"].path(table)).read_bytes() for one in (made, grown))
    assert before == after
    last = pq.read_table(grown["caption_images"].path("pseudo_captions/pseudo_captions_00003.parquet"))
    assert len(last) == 2
