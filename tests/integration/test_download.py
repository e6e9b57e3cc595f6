"""The download stage against a real HTTP server: what it writes, counts, resumes and refuses."""

import collections
import io
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.scenes.captions import read_caption
from models.scenes.render import render_scenes
from models.scenes.scene import make_scenes
from stages.contract.errors import InputFault, YieldTooLow
from stages.contract.events import Event, Progress
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.samples import sample_keys
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import folder_digests, interrupt_after, make_context, save_image, serve_folder

SCENES = {"kind": "scenes", "num_images": 40, "num_dead_urls": 3, "num_corrupt": 4, "resolution": 32, "seed": 5}


def make_config(**options):
    return DownloadShardsConfig(**({"source": SCENES, "rows_per_shard": 16, "encode_format": "png"} | options))


def download(config, folder, *, context=None):
    output = Output(str(folder), "download_shards", "test")
    return run(config, {}, output, context or make_context())


def read_samples(folder):
    shards = sorted((folder / "shards").glob("*.tar"))
    return [sample for shard in shards for sample in read_shard(shard)]


def read_rows(folder):
    return pd.concat(pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet")))


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    events: list[Event] = []
    summary = download(make_config(), folder, context=make_context(events))
    return folder, summary, events


def test_dead_and_corrupt_entries_are_counted_exactly(scenes_folder):
    folder, summary, _ = scenes_folder
    assert summary.items == 40
    assert summary.counts == {
        "rows": 47,
        "images": 40,
        "captioned": 40,
        "failed_http_404": 3,
        "failed_corrupt_image": 4,
    }
    units = [json.loads(path.read_text()) for path in sorted((folder / "units").glob("*.json"))]
    assert [unit["rows"] for unit in units] == [16, 16, 15]
    failures = sum((collections.Counter(unit["failures"]) for unit in units), collections.Counter())
    assert failures == {"http_404": 3, "corrupt_image": 4}
    assert json.loads((folder / "plan.json").read_text())["units"] == 3


def test_progress_counts_shards_and_images(scenes_folder):
    _, _, events = scenes_folder
    assert [event.done for event in events] == [0, 1, 2, 3]
    assert events[-1] == Progress(3, 3, "shards", items=40)


def test_images_arrive_with_their_own_pixels_and_captions(scenes_folder):
    folder, _, _ = scenes_folder
    rendered = render_scenes(make_scenes(47, seed=5), 32).numpy()
    scenes = make_scenes(47, seed=5)
    samples = read_samples(folder)
    assert len(samples) == 40
    keys = sample_keys(f"plain-train-5-{index:07d}.png" for index in range(47))
    for sample in samples:
        index = keys.index(sample.key)
        assert np.array_equal(np.array(Image.open(io.BytesIO(sample.image))), rendered[index])
        assert read_caption(sample.captions[0]).items() <= scenes[index].attributes.items()


def test_metadata_has_a_row_for_every_entry_and_no_trace_of_the_loopback_server(scenes_folder):
    folder, _, _ = scenes_folder
    rows = read_rows(folder)
    assert len(rows) == 47
    assert rows["key"].tolist() == sample_keys(rows["url"])
    assert rows["status"].value_counts().to_dict() == {
        "success": 40,
        "failed_to_resize": 4,
        "failed_to_download": 3,
    }
    assert rows["url"].tolist() == [f"plain-train-5-{index:07d}.png" for index in range(47)]
    for path in (folder / "shards").iterdir():
        assert b"127.0.0.1" not in path.read_bytes()


def test_the_bytes_do_not_depend_on_threads_or_workers(scenes_folder, tmp_path):
    folder, _, _ = scenes_folder
    download(make_config(threads=3), tmp_path)
    assert folder_digests(tmp_path) == folder_digests(folder)


def test_a_killed_download_resumes_to_the_same_bytes(scenes_folder, tmp_path):
    folder, _, _ = scenes_folder
    with pytest.raises(KeyboardInterrupt):
        download(make_config(), tmp_path, context=make_context(map_shards=interrupt_after(1)))
    assert [path.stem for path in (tmp_path / "units").iterdir()] == ["00000"]
    written = (tmp_path / "shards" / "00000.tar").stat().st_mtime_ns
    events: list[Event] = []
    download(make_config(), tmp_path, context=make_context(events))
    assert [event.done for event in events] == [1, 2, 3]
    assert (tmp_path / "shards" / "00000.tar").stat().st_mtime_ns == written
    assert folder_digests(tmp_path) == folder_digests(folder)


def test_a_language_free_source_has_no_captions(tmp_path):
    source = SCENES | {"captioned": False, "domain": "night", "num_images": 6, "num_dead_urls": 0, "num_corrupt": 0}
    summary = download(make_config(source=source), tmp_path)
    assert summary.counts == {"rows": 6, "images": 6, "captioned": 0}
    assert all(not sample.captions for sample in read_samples(tmp_path))


def test_two_domains_take_turns_and_short_captions_always_name_the_shape(tmp_path):
    source = {"kind": "scenes", "num_images": 30, "domain": "both", "caption_drop": 0.6, "short_captions": 0.5}
    download(make_config(source=source), tmp_path)
    named = [read_caption(sample.captions[0]) for sample in read_samples(tmp_path)]
    scenes = [make_scenes(15, domain=domain) for domain in ("plain", "night")]
    for index, attributes in enumerate(named):
        assert attributes.items() <= scenes[index % 2][index // 2].attributes.items()
        assert "shape" in attributes
    assert 3 < sum(len(attributes) >= 4 for attributes in named) < 27


def write_url_list(folder, base):
    """Two good images, one captioned; one of each failure."""
    save_image(folder / "wide.png", size=(60, 40))
    save_image(folder / "tall.jpg", size=(40, 60))
    (folder / "cut.png").write_bytes((folder / "wide.png").read_bytes()[:60])
    (folder / "empty.png").write_bytes(b"")
    entries = {
        f"{base}/wide.png": "a wide image",
        f"{base}/tall.jpg": "  ",
        f"{base}/missing.png": "dead",
        f"{base}/cut.png": None,
        f"{base}/empty.png": None,
        f"{base}/slow/wide.png": None,
        "not-an-address": None,
        "http://127.0.0.1:9/x.png": None,
        None: "no address",
    }
    path = folder / "list.parquet"
    pd.DataFrame({"link": list(entries), "text": list(entries.values())}).to_parquet(path)
    return path


def test_a_url_list_with_every_kind_of_failure(tmp_path):
    with serve_folder(tmp_path) as base:
        path = write_url_list(tmp_path, base)
        config = make_config(
            source={"kind": "url_list", "path": path, "url_column": "link", "caption_column": "text"},
            image_size=24,
            allowed_networks=("127.0.0.1/32",),
            timeout=3.0,
            retries=0,
            min_yield=0.2,
            encode_format="jpg",
        )
        summary = download(config, tmp_path / "out")
    assert summary.counts == {
        "rows": 9,
        "images": 2,
        "captioned": 1,
        "failed_http_404": 1,
        "failed_corrupt_image": 2,
        "failed_timeout": 1,
        "failed_invalid_url": 2,
        "failed_connection_refused": 1,
    }
    wide, tall = read_samples(tmp_path / "out")
    assert Image.open(io.BytesIO(wide.image)).size == Image.open(io.BytesIO(tall.image)).size == (24, 24)
    assert (wide.captions, tall.captions) == (("a wide image",), ())
    schema = pq.read_schema(tmp_path / "out" / "shards" / "00000.parquet")
    assert {"key", "status", "error_message", "url", "caption", "width", "height", "sha256"} <= set(schema.names)


def test_too_low_a_yield_fails_with_the_causes_and_is_tried_again(tmp_path):
    names = [f"{index}.png" for index in range(4)]
    (tmp_path / "list.txt").write_text("")
    with serve_folder(tmp_path / "served") as base:
        save_image(tmp_path / "served" / names[0])
        (tmp_path / "list.txt").write_text("\n".join(f"{base}/{name}" for name in names))
        source = {"kind": "url_list", "path": tmp_path / "list.txt"}
        config = make_config(source=source, rows_per_shard=2, min_yield=0.5, retries=0, allowed_networks=["127.0.0.1"])
        with pytest.raises(YieldTooLow, match=r"1 of 4 entries.*25\.0%.*min_yield = 50\.0%.*http_404 3"):
            download(config, tmp_path / "out")
        assert [path.stem for path in (tmp_path / "out/units").iterdir()] == ["00000"]  # only this one is final
        shutil.copytree(tmp_path / "out", tmp_path / "mended")
        lower = config.model_copy(update={"min_yield": 0.25})
        assert download(lower, tmp_path / "out").items == 1
        assert sorted(path.stem for path in (tmp_path / "out/units").iterdir()) == ["00000", "00001"]
        assert not (tmp_path / "out/poor").exists()
        for name in names:
            save_image(tmp_path / "served" / name)
        assert download(config, tmp_path / "mended").items == 3  # the half-good shard counts as done


def test_a_missing_column_fails_before_anything_is_written(tmp_path):
    pd.DataFrame({"url": ["http://a/b.png"]}).to_csv(tmp_path / "list.csv", index=False)
    source = {"kind": "url_list", "path": tmp_path / "list.csv", "url_column": "URL"}
    config = make_config(source=source)
    with pytest.raises(InputFault, match="nearest: url"):
        check(config)
    with pytest.raises(InputFault):
        download(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
