"""A decoder of several sizes: it learns from images of each bucket equally, resumes to the bit, and generates each."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from pydantic import ValidationError

from cluster.training import launch_in_process
from models.decoders.sampling import DecoderSampling
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics, Progress
from stages.contract.findings import Findings, Image, InspectionContext, Table
from stages.contract.stage import Allocation, StageContext, StageSummary
from stages.formats.buckets import BucketsRecord
from stages.formats.checkpoints import checkpoint_steps
from stages.formats.worst_samples import WorstSamples
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.base_config import DecoderConfig
from stages.train_decoder.config import KINDS
from stages.train_decoder.inspect import inspect
from stages.train_decoder.stage import make_task, run
from stages.training.task import BatchPart, RankInfo
from tests.bucketed_images import DIM, make_inputs

NETWORK = {"unshuffle": 8, "channels": [32], "layout_channels": 4, "layout_resolution": 4, "layout_hidden": 16}
HERE = RankInfo(0, 1, torch.device("cpu"))


def config(**changes: Any) -> Any:
    training = {"num_steps": 6, "batch_size": 4, "warmup_steps": 2, "checkpoint_interval": 3, "log_interval": 1}
    return KINDS["pixel_diffusion"].section.model_validate(
        {
            "kind": "pixel_diffusion", "resolution": 32, "network": NETWORK, "training": training,
            "samples": {"num_images": 6, "num_steps": 1}, "split": {"validation": 0.2},
            "buckets": {"step": 8, "size_conditioning": True},
        }
        | changes
    )  # fmt: skip


def train(inputs: dict[str, Artifact], folder: Path, settings: DecoderConfig) -> tuple[StageSummary, list[Event]]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    return run(settings, inputs, Output(str(folder), "train_decoder", "c"), context), events


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def test_it_trains_reports_and_generates_every_size(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    summary, events = train(inputs, tmp_path / "whole", config())
    output = Artifact(str(tmp_path / "whole"), "train_decoder", "c")
    record = BucketsRecord.of(output)
    assert {name: count for name, count in summary.counts.items() if name.startswith("images_")} == {
        f"images_{size}": count for size, count in record.images.items()
    }
    assert summary.metrics["cropped_fraction"] == record.cropped_fraction > 0
    assert "40x24" in summary.notes["buckets"]
    assert any(
        isinstance(event, Metrics) and np.isfinite(event.values.get("held_out_loss", np.nan)) for event in events
    )
    grid = next(event.png for event in events if isinstance(event, LoggedImage))
    assert PillowImage.open(io.BytesIO(grid)).size[1] == 2 * 40  # a true and a generated image, on fields of 40 x 40

    decoder, _ = load_decoder(output)
    for name, shape in {"40x24": (24, 40), "24x40": (40, 24), None: (32, 32)}.items():
        images = decoder.sample(torch.zeros(2, DIM), [1, 2], DecoderSampling(num_steps=1, size=name))
        assert images.shape == (2, 3, *shape)
    with pytest.raises(ValueError, match=r"found 40x40: allowed are .*: 24x40, 32x32, 40x24"):
        decoder.sample(torch.zeros(1, DIM), [1], DecoderSampling(num_steps=1, size="40x40"))


def test_what_was_in_each_bucket_and_what_fits_least_is_found(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    train(inputs, tmp_path, config())
    output = Artifact(str(tmp_path), "train_decoder", "c")
    findings = Findings("train_decoder", "c", output.uri, "done")
    inspect(output, findings, InspectionContext({**inputs, "train_decoder": output}.get, 16))
    buckets, worst, sheet = findings.blocks
    assert isinstance(buckets, Table)
    assert isinstance(worst, Table)
    assert {row[0]: row[1] for row in buckets.rows} == BucketsRecord.of(output).images
    kept = WorstSamples.of(output).samples
    assert [(row[0], row[1]) for row in worst.rows] == [(one.shard, one.key) for one in kept[:12]]
    losses = [one.loss for one in kept]
    assert losses == sorted(losses, reverse=True)
    assert isinstance(sheet, Image)
    assert findings.notes == []
    task = make_task(config(), inputs)
    task.setup(HERE)
    assert {(one.shard, one.key) for one in kept} == set(task.data.samples(task.held_out))


def test_a_cut_and_resumed_training_gives_the_same_bytes(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    settings, weights = config(augmentation={"crop": 0.1, "flip": 0.5}), "decoder/model.safetensors"

    def cut(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 5:
            raise RuntimeError("cut")

    train(inputs, tmp_path / "whole", settings)
    output = Output(str(tmp_path / "cut"), "train_decoder", "c")
    context = StageContext(cut, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="cut"):
        run(settings, inputs, output, context)
    assert checkpoint_steps(output) == [3]
    train(inputs, tmp_path / "cut", settings)
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "cut" / weights).read_bytes()


def test_parts_of_a_batch_are_of_one_bucket_and_the_same_for_any_number_of_workers(inputs: dict[str, Artifact]) -> None:
    task = make_task(config(), inputs)
    task.setup(HERE)
    for step in range(8):
        whole = task.prepare(BatchPart(step, 0, 4, 4))
        halves = [task.prepare(BatchPart(step, first, 2, 4)) for first in (0, 2)]
        assert {name for name in whole if not torch.equal(whole[name], torch.cat([h[name] for h in halves]))} == set()
        assert whole["noise"].shape[2:] == whole["images"].shape[1:3]
        assert whole["sizes"][0, 4:].tolist() == list(whole["images"].shape[1:3])


def test_every_image_is_trained_on_equally_often(inputs: dict[str, Artifact]) -> None:
    task = make_task(config(training={"batch_size": 8}), inputs)
    task.setup(HERE)
    total = task.split_record.train_images
    seen: Counter[tuple[int, ...]] = Counter()
    for step in range(10 * total):
        positions = np.arange(8 * step, 8 * step + 8)
        seen.update(map(tuple, task.samples_behind(positions, np.zeros(8, dtype=np.int64)).tolist()))
    assert len(seen) == total
    assert set(seen.values()) <= set(range(78, 83))  # 80 on average


def test_images_are_cropped_in_the_middle_and_their_sizes_said(inputs: dict[str, Artifact]) -> None:
    task = make_task(config(), inputs)
    task.setup(HERE)
    batches = (task.prepare(BatchPart(step, 0, 4, 4)) for step in range(40))
    # An image of 120 x 36 covers 40 x 24 as 80 x 24, of which 20 go on each side.
    batch, wide = next((b, wide) for b in batches if (wide := b["sizes"][:, 1] == 240).any())
    assert batch["sizes"][wide][0].tolist() == [72, 240, 0, 20, 24, 40]
    red = batch["images"][wide][0, :, :, 0].float().mean(0)
    assert abs(float(red[0]) - 64) < 6
    assert abs(float(red[-1]) - 191) < 6


def test_random_crops_are_others_at_each_visit(inputs: dict[str, Artifact]) -> None:
    task = make_task(config(augmentation={"crop": 0.01}), inputs)
    task.setup(HERE)
    lefts = {float(b["sizes"][row, 3]) for b in map(task.prepare, (BatchPart(s, 0, 4, 4) for s in range(40)))
             for row in range(4) if b["sizes"][row, 1] == 240}  # fmt: skip
    assert len(lefts) > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "stylegan2"}, "leave it out, or choose a kind that takes buckets: pixel_diffusion, latent"),
        ({"buckets": {"step": 4}}, "found 4: expected a multiple of 8"),
        ({"buckets": {"step": 16}}, "4 times or more"),
        ({"samples": {"size": "40x24"}}, "samples.size is '40x24'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    kind = changes.get("kind", "pixel_diffusion")
    given = {"kind": kind, "resolution": 32, "buckets": {"step": 8}}
    given |= {"network": NETWORK} if kind == "pixel_diffusion" else {"clip": {"models": [{"kind": "trained"}]}}
    with pytest.raises(ValidationError, match=message):
        KINDS[kind].section.model_validate(given | changes)


def test_square_images_are_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, sizes=(4, 3), shapes=((40, 40),))
    with pytest.raises(InputFault, match=r"all of them square or nearly so: .* resize_mode keep_ratio"):
        make_task(config(), inputs).setup(HERE)


def test_without_buckets_nothing_changes() -> None:
    plain = config(buckets=None)
    assert "buckets" not in plain.identity()
    assert "buckets" not in plain.spec(4).to_dict()
    assert "size" not in plain.identity()["samples"]
