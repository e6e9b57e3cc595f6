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

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.img2dataset_import import import_resizer
from stages.download_shards.resizing import make_resizer
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
