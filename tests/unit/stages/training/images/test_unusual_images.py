"""Images of every kind, as training images of a decoder: the right square, or a sentence that names the image."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.contract.errors import InputFault
from stages.storage.artifact import Artifact
from stages.train_decoder.stage import make_task
from stages.training.task import RankInfo
from tests.painted_squares import add_image, make_inputs
from tests.unit.stages.train_decoder.test_stage import config, train

SIDE = 16
COLOR = (200, 60, 40)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def wide() -> bytes:
    image = Image.new("RGB", (90, SIDE), "black")
    image.paste(COLOR, (37, 0, 37 + SIDE, SIDE))
    return encode(image)


def turned() -> bytes:
    """Lies on its side, and says so: upright, its upper half is white."""
    upright = Image.new("RGB", (SIDE, SIDE), COLOR)
    upright.paste("white", (0, 0, SIDE, SIDE // 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)


def of_16_bits() -> bytes:
    return encode(Image.fromarray(np.full((SIDE, SIDE), 100 * 257, np.uint16)))


def palette() -> bytes:
    """Two colors by number, of which the first is transparent: its left half."""
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, *COLOR])
    image.paste(0, (0, 0, SIDE // 2, SIDE))
    return encode(image, transparency=0)


def plain(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), color)


UPRIGHT = np.concatenate([plain((255, 255, 255))[: SIDE // 2], plain(COLOR)[SIDE // 2 :]])
HALF = np.concatenate([plain((255, 255, 255))[:, : SIDE // 2], plain(COLOR)[:, SIDE // 2 :]], axis=1)
STRANGE = {
    "not square": (wide(), "png", plain(COLOR)),
    "grey": (encode(Image.new("L", (SIDE, SIDE), 77)), "png", plain((77, 77, 77))),
    "transparent": (encode(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))), "png", plain((255, 255, 255))),
    "cmyk": (encode(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG", quality=100), "jpg", plain((254, 0, 0))),
    "16 bits": (of_16_bits(), "png", plain((100, 100, 100))),
    "turned": (turned(), "png", UPRIGHT),
    "palette": (palette(), "png", HALF),
    "one pixel": (encode(Image.new("RGB", (1, 1), COLOR)), "png", plain(COLOR)),
}  # fmt: skip


def shards_with(folder: Path, images: dict[int, tuple[bytes, str]]) -> dict[str, Artifact]:
    """Write the first shard anew, with these images in the place of its own."""
    inputs = make_inputs(folder)
    with tarfile.open(folder / "s/shards/00000.tar", "w") as tar:
        for row in range(12):
            if row not in images:
                add_image(tar, row)
                continue
            content, suffix = images[row]
            member = tarfile.TarInfo(f"{row:05d}.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return inputs


def test_each_gives_the_right_square_and_all_are_trained_on(tmp_path: Path) -> None:
    inputs = shards_with(tmp_path, {row: STRANGE[kind][:2] for row, kind in enumerate(STRANGE)})
    task = make_task(config(), inputs)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    rows_of = {key: row for row, key in enumerate(task.data.keys(np.array([[0, row] for row in range(12)])))}
    for number, (kind, (_, _, expected)) in enumerate(STRANGE.items()):
        found = task.read(np.array([[0, rows_of[f"{number:05d}"]]]))["images"][0].numpy()
        np.testing.assert_allclose(found.astype(int), expected, atol=2, err_msg=kind)
    steps = {"num_steps": 5, "batch_size": 8, "warmup_steps": 1, "precision": "float32"}
    summary, _ = train(inputs, tmp_path / "out", config(training=steps, held_out_images=2))
    assert summary.items == 40  # more than an epoch of the 32 images
    measure = summary.measures["held_out_loss"]
    assert measure.value == summary.metrics["held_out_loss"]
    assert (measure.n, summary.protocols[measure.protocol]["images"]) == (2, "2")
    assert measure.low is not None
    assert measure.low <= measure.value


def test_an_image_of_400_million_pixels_is_refused_by_name(tmp_path: Path) -> None:
    content = encode(Image.new("1", (20_000, 20_000)))
    assert len(content) < 200_000
    inputs = shards_with(tmp_path, {3: (content, "png")})
    with pytest.raises(InputFault, match=r"shard 00000, key '00003': the image is too large .*20000 x 20000 pixels"):
        train(inputs, tmp_path / "out", config())


def test_a_resolution_that_the_shards_cannot_give_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"train_decoder\.resolution: found 32, but the images of shard 00000 have 16"):
        train(make_inputs(tmp_path), tmp_path / "out", config(resolution=32))
