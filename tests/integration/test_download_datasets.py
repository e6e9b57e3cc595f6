"""Existing datasets as sources: webdataset shards and Hugging Face folders, brought to the one layout."""

import io
import json
import tarfile
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from stages.contract.errors import InputFault
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.samples import sample_keys, unnumbered
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import folder_digests, make_context


def png(red):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def convert(source, folder, **options):
    config = DownloadShardsConfig(source=source, **({"rows_per_shard": 3, "encode_format": "png"} | options))
    return run(config, {}, Output(str(folder), "download_shards", "test"), make_context())


def read_samples(folder):
    return [sample for shard in sorted((folder / "shards").glob("*.tar")) for sample in read_shard(shard)]


def read_rows(folder):
    return pd.concat(pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet")))


def red_of(sample):
    return Image.open(io.BytesIO(sample.image)).getpixel((5, 5))[0]


def tar_of(samples):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tars():
    """Return two shards as others write them, the second cut short in its last sample."""
    first = tar_of(
        {
            "000.jpg": png(10),
            "000.txt": b"from the text",
            "000.json": json.dumps({"url": "http://u:pw@h/x", "caption": "no", "similarity": 0.3}).encode(),
            "001.PNG": png(20),
            "001.json": json.dumps({"captions": ["one", "two"]}).encode(),
            "002.webp": b"damaged",
            "003.txt": b"no image",
            "004.jpg": png(40),
        }
    )
    second = tar_of({"100.png": png(50), "100.txt": "ñ 🎨".encode(), "101.png": png(60) + b"\0" * 4000})
    return [first, second[:4000]]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_existing_shards_keep_captions_and_what_else_is_known(tars, tmp_path, where):
    root = str(tmp_path / "in") if where == "local" else f"memory://{tmp_path.name}"
    for index, content in enumerate(tars):
        with fsspec.open(f"{root}/{index}.tar", "wb", auto_mkdir=True) as file:
            file.write(content)
    summary = convert({"kind": "webdataset", "path": root}, tmp_path / "out")
    assert summary.counts == {
        "rows": 7,
        "images": 4,
        "captioned": 3,
        "failed_corrupt_image": 1,
        "failed_damaged_tar": 1,
        "failed_missing_file": 1,
    }
    samples = read_samples(tmp_path / "out")
    assert [sample.captions for sample in samples] == [("from the text",), ("one", "two"), (), ("ñ 🎨",)]
    assert [red_of(sample) for sample in samples] == [10, 20, 40, 50]
    rows = read_rows(tmp_path / "out")
    assert rows["source_key"].tolist()[:2] == ["000", "001"]
    assert rows["url"].iloc[0] == "http://h/x"
    assert json.loads(rows["source_json"].iloc[0])["similarity"] == 0.3
    assert b"pw@" not in (tmp_path / "out/shards/00000.parquet").read_bytes()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves it to the garbage collector
def test_our_shards_are_read_by_webdataset_and_by_ourselves(tars, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(tars[0])
    convert({"kind": "webdataset", "path": tmp_path / "in"}, tmp_path / "one")
    shard = tmp_path / "one/shards/00000.tar"
    plain = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["png"] for sample in plain] == [sample.image for sample in read_samples(tmp_path / "one")]
    convert({"kind": "webdataset", "path": str(shard)}, tmp_path / "two")
    again = read_samples(tmp_path / "two")
    assert [(s.image, s.captions) for s in again] == [(s.image, s.captions) for s in read_samples(tmp_path / "one")]


def test_samples_whose_addresses_differ_in_what_is_masked_have_names_of_their_own_over_all_tars(tmp_path):
    cdn = "https://cdn.example/image"
    urls = [[f"{cdn}?key=cat", f"{cdn}?key=dog", f"{cdn}?key=…"], [f"{cdn}?key=hen", f"{cdn}?key=…", f"{cdn}?sig=1"]]
    (tmp_path / "in").mkdir()
    for number, of_tar in enumerate(urls):
        files = {f"{row}.png": png(10 + 100 * number + row) for row in range(3)}
        files |= {f"{row}.json": json.dumps({"url": url}).encode() for row, url in enumerate(of_tar)}
        (tmp_path / f"in/{number}.tar").write_bytes(tar_of(files))
    convert({"kind": "webdataset", "path": tmp_path / "in"}, tmp_path / "out")
    keys = [sample.key for sample in read_samples(tmp_path / "out")]
    assert len({unnumbered(key) for key in keys}) == 6
    assert keys == sample_keys(["0.tar/0", "0.tar/1", "0.tar/2", "1.tar/0", "1.tar/1", f"{cdn}?sig=…"])
    assert set(read_rows(tmp_path / "out")["url"]) == {f"{cdn}?key=…", f"{cdn}?sig=…"}


def dataset_table():
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images: list[dict[str, Any] | None] = [{"bytes": png(20 * index), "path": f"{index}.png"} for index in range(5)]
    images += [{"bytes": None, "path": "../outside.png"}, {"bytes": None, "path": "gone.png"}, None]
    return pa.table(
        {
            "img": pa.array(images, image),
            "texts": [["a", "b"], ["c"], [], None, ["ñ"], ["x"], ["y"], ["z"]],
            "year": list(range(1900, 1908)),
        }
    )


def write_dataset(folder, kind):
    folder.mkdir()
    table = dataset_table()
    if kind == "parquet":
        pq.write_table(table.slice(0, 4), folder / "a.parquet", row_group_size=2)
        pq.write_table(table.slice(4), folder / "b.parquet")
        return folder
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    opener = pa.ipc.new_stream if kind == "arrow" else pa.ipc.new_file
    for name, part in zip(names, (table.slice(0, 4), table.slice(4)), strict=True):
        with opener(str(folder / name), table.schema) as writer:
            writer.write_table(part, max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow_file"])
def test_a_dataset_folder_gives_the_same_shards_in_every_form(tmp_path, kind):
    (tmp_path / "outside.png").write_bytes(png(1))
    source = {"kind": "huggingface", "image_column": "img", "caption_column": "texts"}
    summary = convert(source | {"path": write_dataset(tmp_path / "in", kind)}, tmp_path / "out")
    assert summary.counts == {
        "rows": 8,
        "images": 5,
        "captioned": 3,
        "failed_missing_file": 2,
        "failed_outside_folder": 1,
    }
    samples = read_samples(tmp_path / "out")
    assert [red_of(sample) for sample in samples] == [0, 20, 40, 60, 80]
    assert [sample.captions for sample in samples] == [("a", "b"), ("c",), (), (), ("ñ",)]
    assert read_rows(tmp_path / "out")["year"].tolist() == list(range(1900, 1908))
    convert(source | {"path": tmp_path / "in"}, tmp_path / "again")
    assert folder_digests(tmp_path / "again") == folder_digests(tmp_path / "out")


def test_what_cannot_be_used_is_reported_before_anything_starts(tmp_path):
    def check_source(source):
        check(DownloadShardsConfig(source=source))

    folder = write_dataset(tmp_path / "in", "parquet")
    with pytest.raises(InputFault, match=r"source\.image_column: a\.parquet has no column 'image'.*nearest: img"):
        check_source({"kind": "huggingface", "path": folder})
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(InputFault, match=r"several of split \(train, test\): .*set download_shards\.source\.split"):
        check_source({"kind": "huggingface", "path": folder})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFault, match=r"no \.arrow or \.parquet file"):
        check_source({"kind": "huggingface", "path": tmp_path / "empty"})
    with pytest.raises(InputFault, match=r"no \.tar file"):
        check_source({"kind": "webdataset", "path": tmp_path / "empty"})
