"""Super-resolution stages on painted squares: crops fit, training learns, and levels join to a cascade."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cluster.training import launch_in_process
from models.decoders.base import from_bytes
from models.decoders.sampling import DecoderSampling
from stages.contract.errors import ArtifactError
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.model_folders import load_model_state
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import KINDS
from stages.train_decoder.stage import run as train_decoder
from stages.train_second_upsampler.check import check as check_second
from stages.train_second_upsampler.config import TrainSecondUpsamplerConfig
from stages.train_second_upsampler.stage import run as train_second_upsampler
from stages.train_upsampler.config import TrainUpsamplerConfig
from stages.train_upsampler.stage import run as train_upsampler
from stages.training.task import BatchPart, RankInfo
from stages.training.upsampling.task import UpsamplerTask, crop_alike, shrink
from tests.painted_squares import DIM, make_inputs

TRAINING = {
    "num_steps": 8, "batch_size": 4, "learning_rate": 0.003, "warmup_steps": 1, "log_interval": 4, "ema_decay": 0.5,
    "precision": "float32",
}  # fmt: skip
NETWORK = {"unshuffle": 2, "channels": [32], "blocks_per_level": 1}
SAMPLES = {"num_images": 2, "num_steps": 2}


def config(**changes: Any) -> TrainUpsamplerConfig:
    fields = {"from_resolution": 8, "resolution": 16, "crop": 8, "network": NETWORK, "training": TRAINING}
    return TrainUpsamplerConfig.model_validate(fields | {"samples": SAMPLES} | changes)


def context(events: list[Event]) -> StageContext:
    return StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]


def test_crops_of_large_and_small_images_show_the_same() -> None:
    ramp = torch.linspace(0, 255, 32).expand(32, 32)
    images = torch.stack([ramp, ramp.T, (ramp + ramp.T) / 2], dim=-1).to(torch.uint8).expand(3, 32, 32, 3)
    corners = torch.tensor([[0.0, 0.0], [0.5, 0.99], [0.99, 0.3]])
    large, small = crop_alike(images, shrink(images, 8), corners, 16)
    assert large.shape == (3, 16, 16, 3)
    assert small.shape == (3, 3, 4, 4)
    assert torch.equal(large[0], images[0, :16, :16])
    torch.testing.assert_close(F.avg_pool2d(from_bytes(large), 4), small, atol=0.05, rtol=0)


def test_a_batch_depends_on_seed_and_position_alone(tmp_path: Path) -> None:
    task = UpsamplerTask(config(), make_inputs(tmp_path))
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    whole, part = task.prepare(BatchPart(3, 0, 4, 4)), task.prepare(BatchPart(3, 2, 2, 4))
    assert whole["images"].shape == (4, 8, 8, 3)
    assert whole["small"].shape == (4, 3, 4, 4)
    for name, values in part.items():
        assert torch.equal(values, whole[name][2:]), name


def test_levels_train_apart_and_join_to_a_cascade(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, side=32)
    base = Output(str(tmp_path / "base"), "train_decoder", "c")
    network = {"unshuffle": 4, "channels": [32], "layout_channels": 0}
    fields = {"kind": "pixel_diffusion", "resolution": 8, "network": network, "training": TRAINING, "samples": SAMPLES}
    train_decoder(KINDS["pixel_diffusion"].section.model_validate(fields), inputs, base, context([]))
    events: list[Event] = []
    first = Output(str(tmp_path / "first"), "train_upsampler", "c")
    longer = TRAINING | {"num_steps": 48, "log_interval": 24}
    summary = train_upsampler(config(training=longer), inputs, first, context(events))
    losses = [event.values["loss"] for event in events if isinstance(event, Metrics) and "loss" in event.values]
    assert losses[-1] < losses[0]
    assert summary.metrics["held_out_loss"] > 0
    shown = [event for event in events if isinstance(event, LoggedImage)]
    assert Image.open(io.BytesIO(shown[0].png)).size == (2 * 16, 2 * 16)
    task = UpsamplerTask(config(init_from=first.path("upsampler")), inputs)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    begun, kept = task.saved_module(task.build_model()).state_dict(), load_model_state(first, "upsampler")
    assert all(torch.equal(begun[name], kept[name]) for name in kept)
    second = Output(str(tmp_path / "second"), "train_second_upsampler", "c")
    fields = {"from_resolution": 16, "resolution": 32, "network": NETWORK, "training": TRAINING, "samples": SAMPLES}
    train_second_upsampler(TrainSecondUpsamplerConfig.model_validate(fields), inputs, second, context([]))
    for address in (second.uri, second.path("upsampler")):
        again = TrainSecondUpsamplerConfig.model_validate(fields | {"init_from": address})
        check_second(again)
        task = UpsamplerTask(again, inputs)
        task.setup(RankInfo(0, 1, torch.device("cpu")))
        begun, kept = task.saved_module(task.build_model()).state_dict(), load_model_state(second, "upsampler")
        assert all(torch.equal(begun[name], kept[name]) for name in kept)
    assert again.lineage == {"init_from": second.path("upsampler")}
    assert again.identity()["init_from"]

    cascade, clips = load_decoder(base, [first, second])
    assert cascade.spec.resolution == 32
    assert cascade.sample(torch.zeros(2, DIM), [1, 2], DecoderSampling(num_steps=2)).shape == (2, 3, 32, 32)
    assert clips.digests == ["d"]
    with pytest.raises(ArtifactError, match=r"found one from 16 pixels .* expected 8 pixels"):
        load_decoder(base, [second])
    with pytest.raises(ArtifactError, match=r"no file 'decoder/config\.json'"):
        load_decoder(Artifact(first.uri, "train_upsampler", "c"))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"crop": 6}, "crop is 6: allowed is a multiple of 4"),
        ({"crop": 32}, "up to resolution, which is 16"),
        ({"resolution": 12}, "resolution: found 12: expected a multiple of from_resolution, 8"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        config(**{"network": NETWORK | {"unshuffle": 4}} | changes)
