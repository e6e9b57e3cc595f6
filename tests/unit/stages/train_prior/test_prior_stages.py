"""fit_gaussians and train_prior on small embeddings, in this process."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.priors.flow.spec import FlowPriorSpec
from models.priors.spec import PriorSampling
from models.priors.text import TextFeatures
from pipeline.end_report import end_lines
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import StageContext
from stages.fit_gaussians import stage as fit_gaussians
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.formats.model_folders import load_model_state
from stages.inference.loading import load_prior
from stages.storage.artifact import Output
from stages.train_prior import stage as train_prior
from stages.train_prior.check import check
from stages.train_prior.data import load_pairs
from stages.train_prior.task import PriorTask
from stages.training.task import RankInfo
from tests.factories import make_context, make_entry, make_record
from tests.unit.stages.train_prior.pieces import (
    DIM,
    ROWS,
    SHARDS,
    context,
    fit,
    inputs_for,
    make_embeddings,
    prior_config,
)


def test_gaussians_cover_all_embeddings_and_repeat_themselves(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path)
    one, other = fit(tmp_path / "one", embeddings), fit(tmp_path / "other", embeddings)
    saved = load_file(one.local("gaussians.safetensors"))
    assert saved["means"].shape == saved["stds"].shape == (4, DIM)
    assert int(saved["counts"].sum()) == ROWS * SHARDS
    assert (saved["stds"] > 0).all()
    assert one.read_json("fit.json")["embeddings"] == ROWS * SHARDS
    assert one.local("gaussians.safetensors").read_bytes() == other.local("gaussians.safetensors").read_bytes()
    assert not one.exists("checkpoints")


def test_gaussians_name_their_clip(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path)
    fitted = fit(tmp_path / "g", embeddings)
    assert fitted.read_json("fit.json")["clip"] == embeddings.read_json("clips.json")
    with safe_open(fitted.local("gaussians.safetensors"), framework="pt") as file:
        assert json.loads(file.metadata()["clip"]) == embeddings.read_json("clips.json")


def test_an_interrupted_fit_goes_on_to_the_same_gaussians(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path)
    whole = fit(tmp_path / "whole", embeddings)
    output = Output(str(tmp_path / "cut"), "fit_gaussians", "g0")

    class Killed(Exception):
        pass

    def die(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 3:
            raise Killed

    config, inputs = FitGaussiansConfig(num_gaussians=4), {"embed_clip": embeddings}
    with pytest.raises(Killed):
        fit_gaussians.run(config, inputs, output, StageContext(die, map_in_process, launch_in_process))
    steps: list[Event] = []
    fit_gaussians.run(config, inputs, output, context(steps))
    assert min(event.step for event in steps if isinstance(event, Metrics)) == 4
    for name in ("gaussians.safetensors", "fit.json"):
        assert output.local(name).read_bytes() == whole.local(name).read_bytes()


def test_more_gaussians_than_images_is_an_error(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, rows=2)
    with pytest.raises(InputFault, match=r"fit_gaussians.num_gaussians: found 7 with 6 image embeddings"):
        fit(tmp_path / "g", embeddings, num_gaussians=7)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("shifted", 4), ("gaussian", 4), ("flow", 4), ("projection", 1), ("autoregressive", 4), ("identity", 0)],
)
def test_the_prior_is_whole_in_its_folder(tmp_path: Path, kind: str, steps: int) -> None:
    inputs = inputs_for(kind, tmp_path)
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    events: list[Event] = []
    summary = train_prior.run(prior_config(kind), inputs, output, context(events))
    prior, clips = load_prior(output)
    assert prior.spec.kind == kind
    assert clips.to_json() == inputs["embed_clip"].read_json("clips.json")
    generated = prior.sample(
        TextFeatures(torch.arange(2 * DIM).reshape(2, DIM).float()), [1, 2], PriorSampling(num_steps=2)
    )
    assert generated.shape == (2, DIM)
    assert generated.isfinite().all()
    assert summary.counts["captioned"] == ROWS * SHARDS // 2
    assert summary.counts["training_pairs"] + summary.counts["held_out_pairs"] == ROWS * SHARDS // 2
    by_steps = output.read_json("validation.json")["by_steps"]
    assert by_steps[f"steps_{steps}"]["cosine_true"] == summary.metrics["cosine_true"]
    assert summary.metrics[f"diversity/steps_{steps}"] == by_steps[f"steps_{steps}"]["diversity"]
    images = {event.name for event in events if isinstance(event, LoggedImage) and event.png.startswith(b"\x89PNG")}
    diffusion = kind in ("shifted", "gaussian", "flow")
    assert images == ({"held_out_by_sampling_steps", "held_out_by_time_step"} if diffusion else set())


@pytest.mark.parametrize(("source", "target"), [("gaussian", "sample"), ("noise", "velocity"), ("text", "velocity")])
def test_flow_matching_is_a_matter_of_configuration(tmp_path: Path, source: str, target: str) -> None:
    training = {"num_steps": 60, "batch_size": 32, "log_interval": 10, "precision": "float32", "learning_rate": 0.01}
    validation = {"num_steps": [1, 4], "sampler": "ddim"}
    config = prior_config("flow", source=source, target=target, training=training, validation=validation)
    output, events = Output(str(tmp_path / "p"), "train_prior", "p0"), list[Event]()
    summary = train_prior.run(config, inputs_for("flow", tmp_path), output, context(events))
    losses = [event.values["loss"] for event in events if isinstance(event, Metrics) and "loss" in event.values]
    assert losses[-1] < losses[0] / 2
    assert summary.metrics["cosine_true"] > summary.metrics["cosine_unrelated"] + 0.4

    prior, _ = load_prior(output)
    assert isinstance(prior.spec, FlowPriorSpec)
    assert (prior.spec.source, prior.spec.target) == (source, target)
    text, seeds = TextFeatures(torch.arange(4 * DIM).reshape(4, DIM).float()), [1, 2, 3, 4]
    euler = PriorSampling(num_steps=4, sampler="ddim")
    generated = prior.sample(text, seeds, euler)
    assert generated.shape == (4, DIM)
    assert generated.isfinite().all()
    again, _ = load_prior(output)
    assert torch.equal(again.sample(text, seeds, euler), generated)


def test_the_identity_prior_starts_no_training(tmp_path: Path) -> None:
    config = prior_config("identity")
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    summary = train_prior.run(
        config, inputs_for("identity", tmp_path), output, make_context()
    )  # which refuses to train
    assert config.work == "single"
    assert summary.metrics["diversity"] == pytest.approx(0)
    assert not output.exists("checkpoints")


def test_a_prior_without_captions_names_the_key_to_set(tmp_path: Path) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, captioned=False)}
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    with pytest.raises(InputFault, match=r"no captioned image .*download_shards.source.caption_column"):
        train_prior.run(prior_config("gaussian"), inputs, output, context())
    inputs = {"embed_clip": make_embeddings(tmp_path)}
    config = prior_config("gaussian", captions={"fraction": 0.0})
    with pytest.raises(InputFault, match=r"fraction 0.0\): expected at least 4: raise captions.fraction"):
        train_prior.run(config, inputs, output, context())


@pytest.mark.parametrize("kind", ["shifted", "autoregressive", "flow", "projection"])
def test_a_prior_begins_as_another_around_its_own_gaussians(tmp_path: Path, kind: str) -> None:
    inputs = inputs_for(kind, tmp_path)
    first = Output(str(tmp_path / "first"), "train_prior", "p0")
    train_prior.run(prior_config(kind), inputs, first, context())
    if "fit_gaussians" in inputs:
        inputs = inputs | {"fit_gaussians": fit(tmp_path / "more", inputs["embed_clip"], num_gaussians=3)}
    settings = prior_config(kind, init_from=first.path("prior"))
    task = PriorTask(settings, inputs["embed_clip"], inputs.get("fit_gaussians"), first)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    own, kept = task.build_model().state_dict(), load_model_state(first, "prior")
    of_data = ("bank.", "gaussian_weights")
    assert any(name not in of_data for name in kept)
    assert all(torch.equal(own[name], kept[name]) for name in kept if not name.startswith(of_data))
    second = Output(str(tmp_path / "second"), "train_prior", "p1")
    summary = train_prior.run(settings, inputs, second, context())
    assert summary.notes["init_from"] == first.path("prior")


def test_a_prior_of_other_sizes_or_another_clip_is_named(tmp_path: Path) -> None:
    inputs = inputs_for("gaussian", tmp_path)
    first = Output(str(tmp_path / "first"), "train_prior", "p0")
    train_prior.run(prior_config("gaussian"), inputs, first, context())
    output = Output(str(tmp_path / "second"), "train_prior", "p1")
    wide = prior_config("gaussian", init_from=first.uri, network={"width": 32, "num_layers": 1, "num_heads": 2})
    with pytest.raises(InputFault, match=r"train_prior\.init_from: .* is \[.*16.*\] there, and here it is \[.*32"):
        train_prior.run(wide, inputs, output, context())
    other = {"embed_clip": make_embeddings(tmp_path / "other", clip="another")}
    with pytest.raises(InputFault, match=r"train_prior\.init_from: .*trained on these embeddings"):
        train_prior.run(prior_config("gaussian", init_from=first.uri), other, output, context())
    with pytest.raises(InputFault, match=r"init_from: .* holds no config\.json and no model\.safetensors: expected"):
        check(prior_config("gaussian", init_from=str(tmp_path)))


@pytest.mark.parametrize("kind", ["identity", "shifted"])
def test_the_end_of_a_run_counts_the_pairs_that_the_prior_was_validated_on(tmp_path: Path, kind: str) -> None:
    validation: dict[str, Any] = {"max_pairs": 5} | ({} if kind == "identity" else {"num_steps": [1]})
    config, inputs = prior_config(kind, validation=validation), inputs_for(kind, tmp_path)
    summary = train_prior.run(config, inputs, Output(str(tmp_path / "p"), "train_prior", "p0"), context())
    held_out = load_pairs(config, inputs["embed_clip"]).held_out
    assert summary.counts["held_out_pairs"] > 5 == len(held_out) == summary.measures["retrieval_at_1"].n
    fields: dict[str, Any] = {
        "metrics": {f"train_prior/{name}": value for name, value in summary.metrics.items()},
        "stages": [make_entry("train_prior", counts=dict(summary.counts))],
        "plan": {"train_prior": {"fingerprint": "p0", "identity": config.identity()}},
    }
    measures = {f"train_prior/{name}": asdict(measure) for name, measure in summary.measures.items()}
    for record in (make_record(measures=measures, **fields), make_record(**fields)):  # one of an earlier version, too
        lines = end_lines(record)
        assert any("finds its image among 5 first" in line and "(5 held-out pairs)" in line for line in lines)
        assert any(line.startswith("take care: 5 held-out pairs say little") for line in lines)
