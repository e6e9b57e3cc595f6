"""Images in the shards' form are, byte for byte, those that img2dataset itself makes."""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.img2dataset_import import import_resizer
from stages.download_shards.resizing import Resized, make_resizer
from stages.download_shards.worker import make_shard_worker
from stages.storage.artifact import Output

SIZES = ((300, 200), (200, 300), (64, 40), (500, 500), (40, 300))
QUALITY = 90
MODES = ("center_crop", "keep_ratio", "keep_ratio_largest", "border", "no")
CASES = [
    (mode, side) for side in (96, 64) for mode in MODES
]  # in turn: what was made for one side is not for the other

PLAIN = """
import hashlib, io, json, warnings
warnings.simplefilter("ignore")
from img2dataset.resizer import Resizer
from tests.unit.stages.download_shards.test_resizing import CASES, QUALITY, images
resizers = [Resizer(side, mode, True, encode_quality=QUALITY) for mode, side in CASES]
made = [[resizer(io.BytesIO(content))[0] for content in images()] for resizer in resizers]
print(json.dumps([[hashlib.sha256(image).hexdigest() for image in images] for images in made]))
"""


def images() -> list[bytes]:
    """Return JPEG files of several shapes, each twice, the others between."""
    rng = np.random.default_rng(3)
    files = []
    for width, height in SIZES:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files * 2


@pytest.mark.filterwarnings("ignore")  # the resizer's own, of an argument that albumentations has given another name
def test_the_bytes_are_those_of_plain_img2dataset() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True)
    plain = json.loads(done.stdout.splitlines()[-1])
    for (mode, side), expected in zip(CASES, plain, strict=True):
        settings = {"image_size": side, "resize_mode": mode, "encode_quality": QUALITY, "skip_reencode": False}
        source = {"kind": "url_list", "path": "list.parquet"}
        resize_each = make_resizer(DownloadShardsConfig.model_validate({"source": source, **settings}))
        made = [made.content for made in resize_each(images())]
        assert [hashlib.sha256(image).hexdigest() for image in made] == expected, (mode, side)


HEAVY = ("torch", "ray")
IMPORTS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from stages.download_shards.img2dataset_import import import_resizer
import_resizer()
alone = [name for name in {heavy} if name in sys.modules]
import img2dataset
print(json.dumps([alone, [name for name in {heavy} if name in sys.modules], hasattr(img2dataset, "download")]))
"""


def test_the_stand_in_for_the_package_is_still_needed_and_leaves_no_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(heavy=HEAVY)], capture_output=True, text=True, check=True
    )
    alone, whole, is_package = json.loads(done.stdout.splitlines()[-1])
    assert alone == []
    assert whole == list(HEAVY), "img2dataset is light now: import its resizer plainly"
    assert is_package


@pytest.mark.filterwarnings("ignore")
def test_the_resizer_still_makes_its_transforms_for_each_image_from_the_module_that_is_replaced() -> None:
    resizer = import_resizer()
    made: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            made.append(name)
            return getattr(transforms, name)

    transforms, resizer.A = resizer.A, Counting()
    try:
        resize = resizer.Resizer(32, "center_crop", True)
        for content in images()[:2]:
            assert resize(io.BytesIO(content))[-1] is None
    finally:
        resizer.A = transforms
    assert made == ["SmallestMaxSize", "CenterCrop"] * 2, "img2dataset keeps its transforms now: leave A alone"


@pytest.mark.parametrize("resizes", [False, True])
def test_a_worker_is_ready_when_what_reads_its_images_is(tmp_path: Path, resizes: bool) -> None:
    source = {"kind": "url_list", "path": "list.parquet"}
    config = DownloadShardsConfig.model_validate(
        {"source": source, "decoder_seconds": 31}
    )  # a kind of child of its own
    before = set(psutil.Process().children())
    worker = make_shard_worker(config, Output(str(tmp_path), "download_shards", "f0"), resizes=resizes)
    assert len(set(psutil.Process().children()) - before) == resizes
    del worker


def turned(form: str, orientation: int, size: tuple[int, int]) -> bytes:
    """Return an image that is to be shown turned."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise(size, 50).convert("RGB").save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["keep_ratio", "no"])
def test_sizes_are_those_of_the_image_as_it_is_shown(form: str, mode: str) -> None:
    options = {"image_size": 24, "resize_mode": mode, "isolate_decoding": False}
    config = DownloadShardsConfig.model_validate({"source": {"kind": "url_list", "path": "list.parquet"}, **options})
    cases = [(size, orientation) for size in ((96, 48), (48, 96)) for orientation in range(1, 9)]
    made = list(make_resizer(config)([turned(form, orientation, size) for size, orientation in cases]))
    for one, (size, orientation) in zip(made, cases, strict=True):
        shown = size[::-1] if orientation >= 5 else size
        resized = shown if mode == "no" else (shown[0] // 2, shown[1] // 2)
        assert isinstance(one, Resized), one
        assert (one.original_width, one.original_height) == shown, orientation
        assert (one.width, one.height) == resized
        assert Image.open(io.BytesIO(one.content)).size == resized


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((1, 2000), {"resize_only_if_bigger": False}),
        ((2000, 1), {"resize_only_if_bigger": False}),
        ((17_000, 20), {"resize_mode": "no", "encode_format": "webp", "encode_quality": 90}),
        ((24_000, 60), {"encode_format": "webp", "encode_quality": 90}),
    ],
)
def test_a_strip_that_would_be_too_long_is_no_corrupt_image(size: tuple[int, int], options: dict[str, Any]) -> None:
    section = {"image_size": 48, "resize_mode": "keep_ratio", "isolate_decoding": False} | options
    config = DownloadShardsConfig.model_validate({"source": {"kind": "url_list", "path": "list.parquet"}, **section})
    strip, whole = turned("PNG", 1, size), turned("PNG", 1, (60, 50))
    before, fault, after = make_resizer(config)([whole, strip, whole])
    assert isinstance(fault, ItemFault)
    assert (fault.cause, "resized, it would have" in str(fault)) == (FailureCause.IMAGE_TOO_LARGE, True)
    assert before == after
    assert isinstance(after, Resized)
