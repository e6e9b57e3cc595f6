"""The decoder's stage on a few painted squares: it joins by key, learns, shows images and saves a usable decoder."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cluster.training import launch_in_process
from models.decoders.sampling import DecoderSampling
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.base_config import DecoderConfig
from stages.train_decoder.config import KINDS
from stages.train_decoder.stage import run
from tests.painted_squares import DIM, add_image, make_inputs


def config(**changes: Any) -> DecoderConfig:
    return KINDS["pixel_diffusion"].section.model_validate(
        {
            "kind": "pixel_diffusion",
            "resolution": 16,
            "network": {"unshuffle": 4, "channels": [32], "layout_channels": 4, "layout_resolution": 4},
            "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 2, "log_interval": 4,
                         "validation_interval": 6, "ema_decay": 0.5},
            "samples": {"num_images": 3, "num_steps": 2},
        }
        | changes
    )  # fmt: skip


def train(inputs: dict[str, Artifact], folder: Path, settings: DecoderConfig) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    return run(settings, inputs, Output(str(folder), "train_decoder", "c"), context), events


def test_the_stage_learns_shows_and_saves(tmp_path: Path) -> None:
    summary, events = train(make_inputs(tmp_path), tmp_path / "out", config())
    losses = [e.values["loss"] for e in events if isinstance(e, Metrics) and "loss" in e.values]
    assert losses[-1] < losses[0]
    assert summary.items == 96
    assert summary.metrics["held_out_loss"] > 0
    images = [e for e in events if isinstance(e, LoggedImage)]
    assert [p.step for p in images] == [6, 12]
    assert Image.open(io.BytesIO(images[0].png)).size == (3 * 16, 2 * 16)  # true ones above generated ones

    output = Artifact(str(tmp_path / "out"), "train_decoder", "c")
    decoder, clips = load_decoder(output)
    assert decoder.sample(torch.zeros(2, DIM), [1, 2], DecoderSampling(num_steps=2)).shape == (2, 3, 16, 16)
    assert clips.digests == ["d"]


def test_an_embedded_image_that_is_gone_is_reported(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    with tarfile.open(tmp_path / "s/shards/00001.tar", "w") as tar:
        add_image(tar, 13)
    with pytest.raises(InputFault, match=r"shard 00001: found no image of key '\d{5}' in its tar"):
        train(inputs, tmp_path / "out", config())


def test_a_section_under_training_keeps_the_other_defaults() -> None:
    assert config(training={"num_steps": 700}).training.batch_size == config(training={}).training.batch_size
    assert config(training={"num_steps": 700}).training.num_steps == 700
