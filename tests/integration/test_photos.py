"""The experiments for photographs run to their end: on few small images, with tiny models in the real formats."""

import importlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.training import launch_in_process
from pipeline.config.loading import load_config
from pipeline.plan import Plan, make_plan
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.runner import run_stage
from stages.storage.artifact import Artifact
from tests.factories import make_context
from tests.integration.test_growth import add_photograph

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLIP = f"clip.models=[{{kind: folder, path: {CONFIGS / 'assets' / 'tiny_clip'}}}]"
STABLE = CONFIGS / "assets" / "tiny_stable_diffusion"
FEW = ["num_steps=4", "batch_size=8", "warmup_steps=1", "validation_interval=2"]
SMALL = [
    "split.validation=0.3", "download_shards.image_size=64", "fit_gaussians.num_gaussians=2",
    "generate.prompts.num=4", "generate.decoder.num_steps=2", "train_decoder.samples.num_steps=2",
    "train_decoder.samples.num_images=2", "train_decoder.held_out_images=4",
    *(f"{stage}.training.{word}" for stage in ("train_prior", "train_decoder") for word in FEW),
]  # fmt: skip
PIXELS = ["train_decoder.network.channels=[32]", "train_decoder.network.unshuffle=8"]
OWN: dict[str, list[str]] = {
    "photos": [*PIXELS, *(f"train_clip.training.{word}" for word in FEW)],
    "photos_pretrained_clip": [*PIXELS, CLIP],
    "photos_stable_diffusion": [
        CLIP,
        *(f"{stage}.{word}" for stage in ("encode_latents", "train_decoder")
          for word in ("name=null", f"path={STABLE}", "resolution=64")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_an_experiment_for_photographs_runs(name: str, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(24):
        add_photograph(photographs, number)
    source = f"download_shards.source={{kind: folder, path: {photographs}}}"
    store = Store(str(tmp_path / "store"))
    made = run_here(make_plan(load_config(CONFIGS / f"{name}.yaml", [source, *SMALL, *OWN[name]]), store), store)
    metrics = Manifest.of(made["evaluate"]).summary.metrics
    expected = {"frechet_distance", "kernel_distance", "cmmd", "cosine/image_true", "clip_score/conditioning"}
    assert expected <= set(metrics)
    for trained in ("train_prior", "train_decoder"):
        assert Manifest.of(made[trained]).summary.metrics["best_step"] in (2, 4)


def run_here(plan: Plan, store: Store, stages: Collection[str] | None = None) -> dict[str, Artifact]:
    """Run the stages of a plan, or those that are named, in this process; return what they and others made."""
    context = replace(make_context(), launch_training=launch_in_process)
    made: dict[str, Artifact] = {}
    for stage in plan.stages.values():
        if stages is None or stage.name in stages:
            run = importlib.import_module(f"stages.{stage.name}.stage").run
            output = store.output(stage.name, stage.fingerprint)
            inputs = {source: made[source] for source in stage.inputs}
            run_stage(run, stage.config, inputs=inputs, output=output, context=context, identity=stage.identity)
        made[stage.name] = store.artifact(stage.name, stage.fingerprint)
    return made
