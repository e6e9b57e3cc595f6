"""Our shards in others' hands: plain webdataset reads them, and img2dataset makes a second pass over them."""

import gc
import io
import json
import subprocess
import sys
import warnings
from typing import Any

import pandas as pd
import pytest
import webdataset
from PIL import Image

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import make_context, save_image, serve_folder

CAPTIONS = ["a café ☕", 'two "quoted" words', None, "line one\nline two", "five"]

SECOND_PASS = """
import sys, warnings
from img2dataset import download
source, target = sys.argv[1:]
download(url_list=source, input_format="parquet", url_col="url", caption_col="caption", output_folder=target,
    output_format="webdataset", save_additional_columns=["mark"], image_size=24,
    processes_count=1, thread_count=2, number_sample_per_shard=3, disable_all_reencoding=True, enable_wandb=False)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Five images over real HTTP in two shards; the server stays for a second pass."""
    folder = tmp_path_factory.mktemp("interoperability")
    for number in range(5):
        save_image(folder / f"www/{number}.png", color=(50 * number, 10, 20), size=(40, 24))
    with serve_folder(folder / "www") as base:
        rows = {"url": [f"{base}/{n}.png" for n in range(5)], "text": CAPTIONS, "mark": list("abcde")}
        pd.DataFrame(rows).to_parquet(folder / "list.parquet")
        config = DownloadShardsConfig(
            source={"kind": "url_list", "path": folder / "list.parquet", "caption_column": "text"},
            rows_per_shard=3,
            encode_format="png",
            allowed_networks=("127.0.0.0/8",),
        )
        output = Output(str(folder / "out"), "download_shards", "test")
        assert run(config, {}, output, make_context()).counts["images"] == 5
        yield folder / "out/shards"


def ours(shards):
    return [sample for path in sorted(shards.glob("*.tar")) for sample in read_shard(path)]


def test_plain_webdataset_reads_our_shards(shards):
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last file to the garbage collector
        found = list(dataset)
        del dataset
        gc.collect()
    assert [sample["__key__"] for sample in found] == [sample.key for sample in ours(shards)]
    assert [sample.get("txt") for sample in found] == CAPTIONS
    assert [sample["json"]["mark"] for sample in found] == list("abcde")
    assert [sample["png"].getpixel((5, 5)) for sample in found] == [(50 * number, 10, 20) for number in range(5)]


def test_img2dataset_makes_a_second_pass_over_our_shards(shards, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SECOND_PASS, str(shards), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    again = [sample for path in sorted((tmp_path / "again").glob("*.tar")) for sample in read_shard(path)]
    assert len(list((tmp_path / "again").glob("*.tar"))) == 2
    by_mark: dict[str, dict[str, Any]] = {}
    for path in sorted((tmp_path / "again").glob("*.parquet")):
        by_mark |= {row["mark"]: row for row in pd.read_parquet(path).to_dict("records")}
    assert sorted(by_mark) == list("abcde")
    table = pd.concat(pd.read_parquet(path) for path in sorted(shards.glob("*.parquet")))
    assert {row["sha256"] for row in by_mark.values()} == set(table["sha256"])
    captions = {sample.captions for sample in again}
    assert captions == {sample.captions for sample in ours(shards)}
    sizes = {Image.open(io.BytesIO(sample.image)).size for sample in again if sample.image}
    assert sizes == {(40, 24)}
    stats = [json.loads(path.read_text()) for path in (tmp_path / "again").glob("*_stats.json")]
    assert sum(entry["successes"] for entry in stats) == 5
