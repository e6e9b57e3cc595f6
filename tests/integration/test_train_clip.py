"""The train_clip stage on real shards: what it keeps is a model that open_clip reads, and it resumes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cluster.training import launch_in_process
from stages.contract.errors import InputFault
from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run as run_download
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig
from stages.storage.artifact import Artifact, Output
from stages.train_clip.check import check
from stages.train_clip.config import TrainClipConfig
from stages.train_clip.stage import run
from tests.factories import make_context
from tests.integration.processes import launch_in_forks

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
}
TRAINING = {"num_steps": 6, "batch_size": 16, "ema_decay": 0.0, "precision": "float32", "checkpoint_interval": 2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return folder, download(folder, captioned=True)


def download(folder, **options):
    source = {"kind": "scenes", "num_images": 60, "resolution": 16} | options
    config = DownloadShardsConfig(source=source, rows_per_shard=20, encode_format="png")
    return run_download(config, {}, Output(str(folder), "download_shards", "test"), make_context())


def make_config(**options):
    return TrainClipConfig(
        **(
            {"architecture": ARCHITECTURE, "vocab_size": 320, "training": TRAINING, "split": {"validation": 0.2}}
            | options
        )
    )


def train(config, shards, folder, events=None, *, launch=launch_in_process, workers=1):
    keep = events.append if events is not None else lambda event: None
    context = StageContext(keep, make_context().map_shards, launch, Allocation(num_workers=workers))
    inputs = {"download_shards": Artifact(str(shards), "download_shards", "test")}
    return run(config, inputs, Output(str(folder), "train_clip", "test"), context)


def test_the_trained_folder_is_a_clip_like_any_other(shards, tmp_path):
    events: list[Event] = []
    summary = train(make_config(scene_probe={"num_images": 12}), shards[0], tmp_path, events)
    assert summary.items == 96
    assert summary.counts["training_pairs"] + summary.counts["held_out_pairs"] == 60
    fractions = {"retrieval_text_of_image", "plain_zero_shot_shape", "night_zero_shot_color"}
    assert fractions <= set(summary.metrics)
    for name in fractions:
        measure = summary.measures[name]
        assert measure.value == summary.metrics[name]
        assert measure.low is not None
        assert measure.low <= measure.value
        counted = "pairs" if name.startswith("retrieval") else "images"
        assert summary.protocols[measure.protocol][counted] == str(measure.n)
    assert any(isinstance(event, Metrics) and "loss" in event.values for event in events)
    encoder = ClipEncoder(ClipConfig(models=[{"kind": "folder", "path": tmp_path / "clip"}]), device="cpu")
    assert encoder.encode_texts(["a red circle", "a blue ring"]).shape == (2, 16)
    assert encoder.identities.models[0].image_size == 16


def test_training_lowers_the_loss(shards, tmp_path):
    events: list[Event] = []
    training = TRAINING | {"num_steps": 40, "learning_rate": 3e-3, "log_interval": 10, "checkpoint_interval": 100}
    train(make_config(training=training), shards[0], tmp_path, events)
    losses = [event.values["loss"] for event in events if isinstance(event, Metrics) and "loss" in event.values]
    assert losses[-1] < losses[0] - 0.3


def test_two_workers_learn_what_one_learns(shards, tmp_path):
    """Of one pair each, so that the other's is the only one to contrast it with."""
    training = TRAINING | {"batch_size": 2, "log_interval": 1}
    curves = []
    for workers in (1, 2):
        events: list[Event] = []
        config = make_config(training=training, augmentation={"noise": 0.0})
        train(config, shards[0], tmp_path / str(workers), events, launch=launch_in_forks, workers=workers)
        curves.append([one.values["loss"] for one in events if isinstance(one, Metrics) and "loss" in one.values])
    assert len(curves[0]) == 6
    assert min(curves[0]) > 0.1
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


RESNET = ARCHITECTURE | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}}


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESNET], ids=["transformer", "resnet"])
def test_a_killed_training_resumes_to_the_same_weights(shards, tmp_path, architecture):
    config = make_config(architecture=architecture)

    class Killed(Exception):
        pass

    def kill_at_the_second_log(event):
        if isinstance(event, Metrics) and event.step == 4:
            raise Killed

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, shards[0], whole)
    often = make_config(architecture=architecture, training=TRAINING | {"log_interval": 1})
    context = StageContext(kill_at_the_second_log, make_context().map_shards, launch_in_process, Allocation())
    inputs = {"download_shards": Artifact(str(shards[0]), "download_shards", "test")}
    with pytest.raises(Killed):
        run(often, inputs, Output(str(broken), "train_clip", "test"), context)
    train(config, shards[0], broken)
    weights = [load_file(folder / "clip/open_clip_model.safetensors") for folder in (whole, broken)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_weights_are_stored_in_half_precision_by_default(shards, tmp_path):
    train(make_config(), shards[0], tmp_path / "half")
    train(make_config(store_float16=False), shards[0], tmp_path / "full")
    half, full = (load_file(tmp_path / name / "clip/open_clip_model.safetensors") for name in ("half", "full"))
    assert half["visual.proj"].dtype == torch.float16
    assert full["visual.proj"].dtype == torch.float32
    assert torch.equal(full["visual.proj"].half(), half["visual.proj"])
    assert json.loads((tmp_path / "half/clip/open_clip_config.json").read_text())["preprocess_cfg"]["size"] == [16, 16]


def test_shards_without_captions_are_refused(tmp_path):
    download(tmp_path / "shards", captioned=False)
    with pytest.raises(InputFault, match="0 captioned images"):
        train(make_config(), tmp_path / "shards", tmp_path / "out")


def test_an_architecture_that_open_clip_cannot_build_is_refused(shards, tmp_path):
    strange = ARCHITECTURE | {"text_cfg": ARCHITECTURE["text_cfg"] | {"heads": 3}}  # of a width that is no multiple
    with pytest.raises(InputFault, match=r"train_clip\.architecture: open_clip cannot build the model"):
        train(make_config(architecture=strange), shards[0], tmp_path)


def test_a_training_begins_as_another_clip_with_its_tokenizer(shards, tmp_path):
    train(make_config(store_float16=False), shards[0], tmp_path / "first")
    first = tmp_path / "first" / "clip"
    config = make_config(init_from=str(first), store_float16=False, training=TRAINING | {"learning_rate": 1e-12})
    check(config)
    summary = train(config, shards[0], tmp_path / "second")
    assert summary.notes["init_from"] == str(first)
    second = tmp_path / "second" / "clip"
    assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    before, after = (load_file(folder / "open_clip_model.safetensors") for folder in (first, second))
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=1e-6) for name in before)
    wide = ARCHITECTURE | {"embed_dim": 8}
    with pytest.raises(InputFault, match=r"train_clip\.init_from: .* is \[.*16\] there, and here it is \[.*8\]"):
        train(make_config(init_from=str(first), architecture=wide), shards[0], tmp_path / "third")
    (first / "tokenizer.json").unlink()
    with pytest.raises(InputFault, match=r"train_clip\.init_from: .* has no tokenizer\.json: expected a CLIP with its"):
        train(config, shards[0], tmp_path / "fourth")
