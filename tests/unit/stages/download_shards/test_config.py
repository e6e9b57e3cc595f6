import subprocess
import sys

import pytest
from pydantic import ValidationError

from models.scenes.scene import SPLITS, make_scenes
from models.scenes.vocabulary import DOMAINS
from stages.download_shards.config import DownloadShardsConfig, ScenesSource

SCENES = {"kind": "scenes", "num_images": 4}


def test_reading_the_config_imports_neither_torch_nor_ray():
    code = (
        "import sys; from stages.download_shards.config import DownloadShardsConfig as C; "
        "from stages.download_shards.check import check; "
        "check(C(source=dict(kind='scenes', num_images=2))); "
        "print([m for m in ('torch', 'ray', 'img2dataset', 'cv2') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_domains_and_splits_are_those_of_the_scene_world():
    for domain in DOMAINS:
        for split in SPLITS:
            source = ScenesSource(kind="scenes", num_images=1, domain=domain, split=split)
            assert make_scenes(1, domain=source.domain, split=source.split)
    with pytest.raises(ValidationError):
        ScenesSource(kind="scenes", num_images=1, domain="dusk")


def test_threads_workers_and_the_least_yield_are_no_part_of_the_identity():
    plain = DownloadShardsConfig(source=SCENES)
    other = DownloadShardsConfig(source=SCENES, threads=3, min_yield=0.1, resources={"num_workers": 5})
    assert plain.identity() == other.identity()
    assert plain.identity() != DownloadShardsConfig(source=SCENES, image_size=32).identity()


@pytest.mark.parametrize(
    ("encode_format", "encode_quality", "quality"),
    [("png", None, 6), ("jpg", None, 95), ("webp", 80, 80), ("png", 0, 0)],
)
def test_quality_is_compression_for_png(encode_format, encode_quality, quality):
    config = DownloadShardsConfig(source=SCENES, encode_format=encode_format, encode_quality=encode_quality)
    assert config.quality == quality


def test_a_png_compression_above_9_is_refused():
    with pytest.raises(ValidationError, match="png takes a compression from 0 to 9"):
        DownloadShardsConfig(source=SCENES, encode_format="png", encode_quality=50)


def test_a_txt_list_has_no_captions(tmp_path):
    with pytest.raises(ValidationError, match="addresses only"):
        DownloadShardsConfig(source={"kind": "url_list", "path": tmp_path / "a.txt", "caption_column": "text"})
