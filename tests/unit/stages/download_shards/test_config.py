import subprocess
import sys

import pytest
from pydantic import ValidationError

from models.scenes.scene import SPLITS, make_scenes
from models.scenes.vocabulary import DOMAINS
from stages.download_shards.config import DownloadShardsConfig, FolderSource, ScenesSource, UrlListSource
from stages.download_shards.list_config import FORMATS
from stages.download_shards.sources.url_list import list_files, list_format

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
    with pytest.raises(ValidationError, match="addresses only"):
        UrlListSource(kind="url_list", path=str(tmp_path / "a.TXT"), caption_column="text")
    assert UrlListSource(kind="url_list", path=str(tmp_path / "a.txt"), format="csv", caption_column="text")


@pytest.mark.parametrize("given", [None, "tsv"])
@pytest.mark.parametrize("suffix", [*FORMATS, "CSV", "d"])
def test_each_file_that_a_folder_of_a_list_is_read_from_is_of_its_identity(tmp_path, suffix, given):
    folder = tmp_path / f"x.{suffix}"
    folder.mkdir()
    for form in FORMATS:
        for number in range(2):
            (folder / f"part-{number}.{form}").write_text("first")
    source = UrlListSource(kind="url_list", path=str(folder), format=given)
    expected = given or (suffix.lower() if suffix.lower() in FORMATS else "parquet")
    before = source.identity()
    assert list_format(source) == expected
    for file in sorted(folder.iterdir()):
        file.write_text("other")
        is_read = str(file) in list_files(source)[0]
        assert is_read == file.name.endswith(f".{expected}")
        assert (source.identity() != before) == is_read
        file.write_text("first")


def test_only_sources_that_may_mix_texts_and_lists_of_captions_are_named_anew(tmp_path):
    for folder, form in (("a", "csv"), ("b", "tsv"), ("c", "jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"metadata.{form}").write_text("")
        found = FolderSource(kind="folder", path=str(tmp_path)).identity()
        assert ("captions" in found) == (form == "jsonl")
        path = str(tmp_path / folder / f"metadata.{form}")
        found = UrlListSource(kind="url_list", path=path, caption_column="text").identity()
        assert ("captions" in found) == (form == "jsonl")
    assert "captions" not in UrlListSource(kind="url_list", path=path).identity()
