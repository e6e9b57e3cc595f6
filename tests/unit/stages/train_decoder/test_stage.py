"""The decoder's stage on a few painted squares: it joins by key, learns, shows images and saves a usable decoder."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.training import launch_in_process
from models.decoders.sampling import DecoderSampling
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.splits import SplitRecord
from stages.formats.worst_samples import MOST, WorstSamples
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.base_config import DecoderConfig
from stages.train_decoder.config import KINDS
from stages.train_decoder.stage import make_task, run
from stages.training.images.task import LOSS_ROUNDS
from stages.training.task import BatchPart, RankInfo
from tests.painted_squares import DIM, add_image, make_inputs


def config(**changes: Any) -> DecoderConfig:
    return KINDS["pixel_diffusion"].section.model_validate(
        {
            "kind": "pixel_diffusion",
            "resolution": 16,
            "network": {"unshuffle": 4, "channels": [32], "layout_channels": 4, "layout_resolution": 4},
            "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 2, "log_interval": 4,
                         "validation_interval": 6, "ema_decay": 0.5, "precision": "float32"},
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


def test_held_out_samples_of_the_largest_loss_are_kept_with_a_checksum(tmp_path: Path) -> None:
    train(make_inputs(tmp_path), tmp_path / "out", config(split={"validation": 0.5}))
    output = Artifact(str(tmp_path / "out"), "train_decoder", "c")
    found, split = WorstSamples.of(output), SplitRecord.of(output)
    losses = [one.loss for one in found.samples]
    assert found.step == 12
    assert found.validated == len(losses) == split.validation_images > 8
    assert losses == sorted(losses, reverse=True)
    assert found.mean_loss == pytest.approx(sum(losses) / len(losses))
    assert WorstSamples.file in output.unit_sums()["model"]
    assert expected_losses(make_inputs(tmp_path), output, split.validation_images) == pytest.approx(
        {(one.shard, one.key): one.loss for one in found.samples}, rel=1e-3
    )


def expected_losses(inputs: dict[str, Artifact], output: Artifact, count: int) -> dict[tuple[str, str], float]:
    """Compute the losses of the held-out samples one by one, with the stored weights."""
    task = make_task(config(split={"validation": 0.5}), inputs)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    model = task.build_model().eval()
    model.decoder.load_state_dict(load_decoder(output)[0].state_dict())
    losses: dict[tuple[str, str], float] = {}
    with torch.no_grad():
        for number, (sample, index) in enumerate(zip(task.data.samples(task.held_out), task.held_out, strict=True)):
            rounds = [
                model(task.batch(index[None], BatchPart(0, step * count + number, 1, count)))["loss"].item()
                for step in range(LOSS_ROUNDS)
            ]
            losses[sample] = sum(rounds) / len(rounds)
    return losses


def test_where_the_best_weights_are_kept_the_largest_losses_are_theirs(tmp_path: Path) -> None:
    """Here those are called the best whose loss is the highest, which are not the last."""
    training = config().training.model_dump() | {"best": {"metric": "held_out_loss", "mode": "highest"}}
    settings = config(split={"validation": 0.5}, training=training | {"validation_interval": 3})
    summary, _ = train(make_inputs(tmp_path), tmp_path / "out", settings)
    output = Artifact(str(tmp_path / "out"), "train_decoder", "c")
    found = WorstSamples.of(output)
    assert found.step == summary.metrics["best_step"] < 12
    assert expected_losses(make_inputs(tmp_path), output, found.validated) == pytest.approx(
        {(one.shard, one.key): one.loss for one in found.samples}, rel=1e-3
    )


def test_losses_that_are_not_finite_are_counted_and_few_are_listed() -> None:
    samples = [("00000", f"{number:03d}") for number in range(200)]
    losses = np.arange(200.0)
    losses[[3, 199]] = np.nan, np.inf
    found = WorstSamples.among(samples, losses, step=5, rounds=1)
    assert [one.key for one in found.samples] == [f"{number:03d}" for number in range(198, 198 - MOST, -1)]
    assert (found.validated, found.not_finite) == (200, 2)
    assert WorstSamples.among(samples[:1], np.array([np.nan]), step=5, rounds=1).mean_loss is None


def test_an_embedded_image_that_is_gone_is_reported(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    with tarfile.open(tmp_path / "s/shards/00001.tar", "w") as tar:
        add_image(tar, 13)
    with pytest.raises(InputFault, match=r"shard 00001: found no image of key '\d{5}' in its tar"):
        train(inputs, tmp_path / "out", config())


def test_a_section_under_training_keeps_the_other_defaults() -> None:
    assert config(training={"num_steps": 700}).training.batch_size == config(training={}).training.batch_size
    assert config(training={"num_steps": 700}).training.num_steps == 700
