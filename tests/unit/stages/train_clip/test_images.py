"""Images of every kind reach CLIP training as the right pixels; those that cannot be decoded are counted."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch

from stages.contract.errors import FailureCause, InputFault
from stages.contract.events import Metrics
from stages.formats.captions import CaptionsConfig
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Output
from stages.train_clip.config import TrainClipConfig
from stages.train_clip.data import CaptionedImages
from stages.train_clip.stage import run
from stages.train_clip.task import ClipTask
from stages.train_clip.tokenizer import train_tokenizer
from stages.training.images.shard_images import UnreadableImages
from stages.training.task import BatchPart, RankInfo
from tests.unit.stages.encoded import context, encoded_square
from tests.unit.stages.training.images.test_unusual_images import SIDE, STRANGE

Image = tuple[bytes, str]


def make_shards(folder: Path, images: Sequence[Image], *, uncaptioned: int = 1) -> Output:
    """Write one shard of captioned images and some without a caption."""
    shards = Output(str(folder), "download_shards", "a")
    others = [(encoded_square(row), "png") for row in range(uncaptioned)]
    with shards.writing("shards/00000.tar") as path, tarfile.open(path, "w") as tar:
        for row, (content, suffix) in enumerate([*images, *others]):
            members = {suffix: content} | ({"txt": f"caption {row}".encode()} if row < len(images) else {})
            for name, data in members.items():
                member = tarfile.TarInfo(f"{row:05d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    rows = len(images) + uncaptioned
    ShardRecord(rows=rows, images=rows, captioned=len(images), failures={}).finish(shards, "00000")
    return shards


def config(**changes: Any) -> TrainClipConfig:
    return TrainClipConfig.model_validate(
        {
            "architecture": {
                "embed_dim": 8,
                "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
                "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
            },
            "vocab_size": 300,
            "augmentation": {"contrast": 0, "brightness": 0, "noise": 0},
            "training": {"num_steps": 4, "batch_size": 8, "precision": "float32"},
        }
        | changes
    )


def open_task(folder: Path, shards: Output, **changes: Any) -> ClipTask:
    output = Output(str(folder), "train_clip", "c")
    tokenizer = folder / "clip"
    tokenizer.mkdir(parents=True)
    size = train_tokenizer(["caption 1"], vocab_size=300, context_length=16, folder=tokenizer)
    task = ClipTask(config(**changes), {"download_shards": shards}, output=output, vocab_size=size)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    return task


def test_unusual_images_reach_training_as_the_right_pixels(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s", [(content, suffix) for content, suffix, _ in STRANGE.values()])
    task = open_task(tmp_path / "out", shards)
    indices = np.array([[0, row] for row in range(len(STRANGE))])
    assert task.data.captions(indices) == [f"caption {row}" for row in range(len(STRANGE))]
    pixels = task.batch(indices, BatchPart(0, 0, len(indices), len(indices)))["pixels"]
    images = ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    for image, (kind, (_, _, expected)) in zip(images, STRANGE.items(), strict=True):
        np.testing.assert_allclose(image, expected, atol=2, err_msg=kind)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_pixels_are_what_open_clips_own_transform_makes(tmp_path: Path, mode: str) -> None:
    colours = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "resize_mode": mode}
    sizes = [(SIDE, SIDE), (3 * SIDE + 1, SIDE), (SIDE - 3, SIDE // 2)]
    values = [np.random.default_rng(row).integers(0, 256, (*size, 3), dtype=np.uint8) for row, size in enumerate(sizes)]
    images = [PIL.Image.fromarray(value) for value in values]
    shards = make_shards(tmp_path / "s", [(_png(image), "png") for image in images])
    task = open_task(tmp_path / "out", shards, preprocessing=colours)
    indices = np.array([[0, row] for row in range(len(images))])
    found = task.batch(indices, BatchPart(0, 0, len(images), len(images)))["pixels"]
    how = open_clip.transform.PreprocessCfg(size=SIDE, interpolation="bicubic", **colours)
    transform = open_clip.transform.image_transform_v2(how, is_train=False)
    assert torch.equal(found, torch.stack([transform(image) for image in images]))


@pytest.mark.parametrize("kept", [True, False])
def test_images_are_kept_within_the_memory_that_is_given(tmp_path: Path, kept: bool) -> None:
    shards = make_shards(tmp_path / "s", [(encoded_square(row), "png") for row in range(8)])
    task = open_task(tmp_path / "out", shards, cache_gigabytes=1.0 if kept else 0.0)
    indices, part = np.array([[0, row] for row in range(8)]), BatchPart(0, 0, 8, 8)
    first = task.batch(indices, part)["pixels"]
    (tmp_path / "s" / "shards" / "00000.tar").write_bytes(b"")  # what is not kept cannot be read again
    if kept:
        assert torch.equal(task.batch(indices, part)["pixels"], first)
    else:
        with pytest.raises(UnreadableImages, match="00000"):
            task.batch(indices, part)


def test_the_model_learns_with_the_smoothing_of_its_section(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s", [(encoded_square(row), "png") for row in range(8)])
    indices, part = np.array([[0, row] for row in range(8)]), BatchPart(0, 0, 8, 8)
    losses = []
    for smoothing in (0.0, 0.5):
        task = open_task(tmp_path / str(smoothing), shards, label_smoothing=smoothing)
        torch.manual_seed(0)
        losses.append(task.build_model()(task.batch(indices, part))["loss"])
    assert (losses[0] - losses[1]).abs().max() > 1e-3


def test_protocols_of_a_validation_name_the_pairs_that_it_was_of(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s", [(encoded_square(row), "png") for row in range(40)])
    found = []
    for number, split in enumerate(({"validation": 0.4}, {"validation": 0.2, "test": 0.2})):
        task = open_task(tmp_path / str(number), shards, split=split)
        model = task.build_model()
        event = task.validate(model, 0)[0]
        assert isinstance(event, Metrics)
        (protocol,) = {tuple(sorted(one.items())) for one in event.protocols.values()}
        found.append(dict(protocol))
    assert [set(one) for one in found] == [{"validated", "captions", "seed", "pairs"}] * 2
    assert found[0]["validated"] != found[1]["validated"], "both splits put the same images aside"
    assert found[0]["captions"].startswith("human, digest")


def _png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_images_that_cannot_be_decoded_are_left_out_and_counted(tmp_path: Path) -> None:
    corrupt = {3, 17, 18}
    images = [(encoded_square(row)[: 40 if row in corrupt else None], "png") for row in range(40)]
    shards = make_shards(tmp_path / "s", images)
    task = open_task(tmp_path / "task", shards)
    for step in range(5):
        assert torch.isfinite(task.prepare(BatchPart(step, 0, 8, 8))["pixels"]).all()
    held_out = {f"00000/{row:05d}" for row in corrupt & set(task._held_out[:, 1].tolist())}
    assert set(task.left_out) | held_out == {f"00000/{row:05d}" for row in corrupt}
    assert set(task.left_out.values()) == {FailureCause.CORRUPT_IMAGE}

    output = Output(str(tmp_path / "out"), "train_clip", "c")
    steps = {"num_steps": 6, "batch_size": 8, "precision": "float32"}
    summary = run(config(training=steps), {"download_shards": shards}, output, context())
    assert summary.counts["training_pairs"] + summary.counts["held_out_pairs"] == 40
    assert summary.counts["failed_corrupt_image"] == 3


def test_one_captioned_image_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="train_clip: the shards of download_shards hold 1 captioned images"):
        CaptionedImages(
            {"download_shards": make_shards(tmp_path, [(encoded_square(0), "png")])}, CaptionsConfig(), image_size=SIDE
        )
