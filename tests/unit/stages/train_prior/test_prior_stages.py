"""fit_gaussians and train_prior on small embeddings, in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.priors import PriorSampling, TextFeatures
from stages.artifacts import Artifact, Output
from stages.contract import GrantedResources, StageContext
from stages.errors import InputFault
from stages.events import Event, Metrics, Picture
from stages.fit_gaussians import stage as fit_gaussians
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.train_prior import stage as train_prior
from stages.train_prior.config import TrainPriorConfig
from stages.trained_models import load_prior

DIM, ROWS, SHARDS = 6, 60, 3


def context(events: list[Event] | None = None) -> StageContext:
    emit = (lambda event: None) if events is None else events.append
    return StageContext(emit, map_in_process, launch_in_process, GrantedResources())


def make_embeddings(folder: Path, *, captioned: bool = True, rows: int = ROWS) -> Output:
    output = Output(str(folder / "emb"), "embed_clip", "e0")
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        name = f"{shard:05d}"
        image = rng.normal(size=(rows, DIM)) * 2 + 1
        text = image[:, ::-1] + 0.1
        has = np.arange(rows) % 2 == 0 if captioned else np.zeros(rows, dtype=bool)
        text[~has] = np.nan
        for kind, values in (("img_emb", image), ("text_emb", text)):
            with output.writing(f"{kind}/{kind}_{name}.npy") as path, path.open("wb") as file:
                np.save(file, values.astype(np.float16))
        captions = ["a thing" if one else None for one in has]
        keys = [f"{name}{row:05d}" for row in range(rows)]
        with output.writing(f"metadata/metadata_{name}.parquet") as path:
            pq.write_table(pa.table({"key": keys, "caption": captions, "has_caption": has}), path)
        output.finish_unit(name, {"rows": rows, "captioned": int(has.sum()), "failures": {}})
    output.write_json("clips.json", [{"reference": "r", "digest": "d", "embed_dim": DIM, "image_size": 8}])
    return output


def fit(folder: Path, embeddings: Artifact, **changes: Any) -> Output:
    output = Output(str(folder), "fit_gaussians", "g0")
    config = FitGaussiansConfig(**({"num_gaussians": 4} | changes))
    fit_gaussians.run(config, {"embed_clip": embeddings}, output, context())
    return output


def prior_config(kind: str = "shifted", **changes: Any) -> Any:
    section = {
        "kind": kind,
        "network": {"width": 16, "num_layers": 1, "num_heads": 2},
        "validation": {"num_steps": [1, 4], "fraction": 0.3},
        "training": {"num_steps": 8, "batch_size": 16, "log_interval": 4, "precision": "float32"},
    }
    return TypeAdapter(TrainPriorConfig).validate_python(section | changes)


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


@pytest.mark.parametrize("kind", ["shifted", "gaussian"])
def test_the_prior_is_whole_in_its_folder(tmp_path: Path, kind: str) -> None:
    inputs: dict[str, Artifact] = {"embed_clip": make_embeddings(tmp_path)}
    if kind == "shifted":
        inputs["fit_gaussians"] = fit(tmp_path / "g", inputs["embed_clip"])
    output, events = Output(str(tmp_path / "p"), "train_prior", "p0"), []
    summary = train_prior.run(prior_config(kind), inputs, output, context(events))
    prior, clips = load_prior(output)
    assert prior.bank.num_gaussians == (4 if kind == "shifted" else 1)
    assert clips == inputs["embed_clip"].read_json("clips.json")
    assert prior.sample(TextFeatures(torch.ones(2, DIM)), [1, 2], PriorSampling(num_steps=2)).isfinite().all()
    assert summary.counts["captioned"] == ROWS * SHARDS // 2
    assert summary.counts["training_pairs"] + summary.counts["held_out_pairs"] == ROWS * SHARDS // 2
    by_steps = json.loads(output.local("validation.json").read_text())["by_steps"]
    assert by_steps["steps_4"]["cosine_true"] == summary.metrics["cosine_true"]
    assert summary.metrics["cosine_true/steps_1"] == by_steps["steps_1"]["cosine_true"]
    assert any(isinstance(event, Picture) and event.png.startswith(b"\x89PNG") for event in events)


def test_a_prior_without_captions_says_what_to_set(tmp_path: Path) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, captioned=False)}
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    with pytest.raises(InputFault, match=r"no captioned image .*download_shards.source.caption_column"):
        train_prior.run(prior_config("gaussian"), inputs, output, context())
    inputs = {"embed_clip": make_embeddings(tmp_path)}
    config = prior_config("gaussian", captions={"fraction": 0.0})
    with pytest.raises(InputFault, match=r"fraction 0.0\): expected at least 4: raise captions.fraction"):
        train_prior.run(config, inputs, output, context())


def test_impossible_sections_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"multiple of 2 x num_heads"):
        prior_config(network={"width": 10, "num_heads": 4})
    with pytest.raises(ValidationError, match=r"ascending order"):
        prior_config(validation={"num_steps": [4, 1]})
    with pytest.raises(ValidationError, match=r"at most schedule.num_timesteps"):
        prior_config(schedule={"num_timesteps": 2})
