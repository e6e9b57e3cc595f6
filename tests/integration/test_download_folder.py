"""A folder of images as a source: what captions it finds, what it counts, and that the bytes stay the same."""

import io
import json

import pandas as pd
import pytest
from PIL import Image

from cluster.item_progress import begin_item, samples_of_item
from stages.contract.errors import InputFault
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import folder_digests, make_context, save_image


def make_config(folder, **options):
    source = {"kind": "folder", "path": folder} | options.pop("source", {})
    return DownloadShardsConfig(source=source, **({"rows_per_shard": 3, "image_size": 24, "min_yield": 0.1} | options))


def convert(config, folder):
    return run(config, {}, Output(str(folder), "download_shards", "test"), make_context())


def read_samples(folder):
    return [sample for shard in sorted((folder / "shards").glob("*.tar")) for sample in read_shard(shard)]


def read_rows(folder):
    return pd.concat(pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet")))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index, name in enumerate(["a.png", "b/c.jpg", "b/d.png", "e ñ 🎨.png"]):
        save_image(folder / name, color=(60 * index, 10, 10))
    return folder


def test_captions_lie_beside_the_images(images, tmp_path):
    (images / "a.txt").write_text("an image 🎨\n")
    (images / "b/c.json").write_text(json.dumps({"captions": ["one", " ", "two"]}))
    (images / "b/d.json").write_text(json.dumps({"caption": ""}))
    (images / "b/d.txt").write_text("  ")
    summary = convert(make_config(images), tmp_path / "out")
    assert summary.counts == {"rows": 4, "images": 4, "captioned": 2}
    samples = read_samples(tmp_path / "out")
    assert [sample.captions for sample in samples] == [("an image 🎨",), ("one", "two"), (), ()]
    assert read_rows(tmp_path / "out")["url"].tolist() == ["a.png", "b/c.jpg", "b/d.png", "e ñ 🎨.png"]
    for sample, red in zip(samples, (0, 60, 120, 180), strict=True):
        assert abs(Image.open(io.BytesIO(sample.image)).convert("RGB").getpixel((12, 12))[0] - red) < 8


def test_a_worker_reports_the_progress_of_its_shard(images, tmp_path):
    (images / "b/c.jpg").write_bytes(b"<html>")
    begin_item()
    convert(make_config(images, rows_per_shard=4), tmp_path / "out")
    assert samples_of_item() == 4  # with what failed


def test_metadata_names_files_captions_and_more(images, tmp_path):
    entries = {
        "file_name": ["b/d.png", "a.png", "gone.png", "../secret.png"],
        "text": ["fourth", "first", "nothing", "outside"],
        "artist": ["Ñ", None, "x", "y"],
        "year": [1901, 1902, 1903, 1904],
    }
    save_image(tmp_path / "secret.png")
    pd.DataFrame(entries).to_csv(images / "metadata.csv", index=False)
    (images / "b/c.jpg").write_bytes(b"<html>")
    summary = convert(make_config(images, source={"caption_column": "text"}), tmp_path / "out")
    assert summary.counts == {
        "rows": 6,
        "images": 3,
        "captioned": 2,
        "failed_unsupported_format": 1,
        "failed_missing_file": 1,
        "failed_outside_folder": 1,
    }
    rows = read_rows(tmp_path / "out").set_index("url")
    assert rows.loc["b/d.png", ["caption", "artist", "year", "status"]].tolist() == ["fourth", "Ñ", 1901, "success"]
    assert rows.loc["gone.png", "error_message"] == "no such file"


def test_a_second_run_on_another_copy_gives_the_same_bytes(images, tmp_path):
    (images / "a.txt").write_text("a")
    convert(make_config(images), tmp_path / "one")
    copy = tmp_path / "copy"
    for path in sorted(images.rglob("*"), reverse=True):
        if path.is_file():
            (copy / path.relative_to(images)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(images)).write_bytes(path.read_bytes())
    assert make_config(copy).identity() == make_config(images).identity()
    convert(make_config(copy), tmp_path / "two")
    assert folder_digests(tmp_path / "one") == folder_digests(tmp_path / "two")


def test_a_damaged_caption_file_costs_its_image_and_no_other(images, tmp_path):
    (images / "a.json").write_text("{")
    assert convert(make_config(images), tmp_path / "out").counts["failed_bad_caption_file"] == 1
    assert len(read_samples(tmp_path / "out")) == 3


def test_a_folder_that_cannot_be_used_is_reported_before_anything_starts(images, tmp_path):
    with pytest.raises(InputFault, match=r"source\.path: .*nowhere: there is no such folder"):
        check(make_config(tmp_path / "nowhere"))
    pd.DataFrame({"file_name": ["a.png"], "captoin": ["x"]}).to_csv(images / "metadata.csv", index=False)
    with pytest.raises(InputFault, match=r"source\.caption_column: metadata\.csv has no column.*nearest: captoin"):
        check(make_config(images))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFault, match="holds no image"):
        convert(make_config(tmp_path / "empty"), tmp_path / "out")
