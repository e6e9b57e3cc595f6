"""Embeddings of others in the layout of clip-retrieval and LAION become ours; ours are read by their reader."""

import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_reader import EmbeddingReader

from stages.contract.errors import InputFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run as run_download
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run
from stages.encoders.clip import ClipEncoder
from stages.formats.captions import CaptionsConfig
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import load_captioned_rows, shard_rows
from stages.formats.shards import read_shard
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, interrupt_after, make_context, save_image, save_tiny_clip

DIM = 16


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return {"models": [{"kind": "folder", "path": save_tiny_clip(tmp_path_factory.mktemp("clip"), embed_dim=DIM)}]}


def layout(folder, keys, *, files=2, normalised=True, key_column="image_path", text=True, dtype=np.float16, dim=DIM):
    """Write embeddings as clip-retrieval does; every third row has no caption."""
    rng = np.random.default_rng(0)
    image, texts = rng.normal(size=(len(keys), dim)) * 3, rng.normal(size=(len(keys), dim)) * 2
    if normalised:
        image, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, texts))
    captions = [None if row % 3 == 2 else f"caption {row}" for row in range(len(keys))]
    fs, root = fsspec.core.url_to_fs(str(folder))
    for number, rows in enumerate(np.array_split(np.arange(len(keys)), files)):
        arrays = {"img_emb": image[rows], **({"text_emb": texts[rows]} if text else {})}
        for kind, values in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, values.astype(dtype))
            fs.makedirs(f"{root}/{kind}", exist_ok=True)
            fs.pipe(f"{root}/{kind}/{kind}_{number:04d}.npy", buffer.getvalue())
        table = pa.table({key_column: [keys[r] for r in rows], "caption": [captions[r] for r in rows]})
        fs.makedirs(f"{root}/metadata", exist_ok=True)
        with fs.open(f"{root}/metadata/metadata_{number:04d}.parquet", "wb") as file:
            pq.write_table(table, file)
    return image.astype(dtype), texts.astype(dtype)


def take(clip, folder, out, *, shards=None, context=None, **existing):
    config = EmbedClipConfig(
        clip=clip, existing={"path": str(folder), "with_shards": shards is not None, **existing}, storage="float32"
    )
    inputs = {} if shards is None else {"download_shards": Artifact(str(shards), "download_shards", "test")}
    assert set(config.inputs) == set(inputs)
    output = Output(str(out), "embed_clip", "test")
    return run(config, inputs, output, context or make_context()), output


def test_a_published_layout_at_any_address_becomes_our_embeddings(clip, tmp_path):
    keys = [f"{row:09d}" for row in range(7)]
    image, text = layout("memory://laion/subset", keys)
    summary, output = take(clip, "memory://laion/subset", tmp_path)
    assert dict(summary.counts) == {"images": 7, "captioned": 5}
    assert shard_rows(output) == {"00000": 4, "00001": 3}
    rows = [load_captioned_rows(output, shard, CaptionsConfig()) for shard in shard_rows(output)]
    assert [key for part in rows for key in part.keys] == [keys[row] for row in (0, 1, 3, 4, 6)]
    assert np.array_equal(np.concatenate([part.image for part in rows]), image[[0, 1, 3, 4, 6]].astype(np.float32))
    assert np.array_equal(np.concatenate([part.text for part in rows]), text[[0, 1, 3, 4, 6]].astype(np.float32))


@pytest.mark.parametrize("normalised", [True, False])
def test_the_norms_are_looked_at_and_recorded(clip, tmp_path, normalised):
    layout(tmp_path / "in", list("abcdef"), normalised=normalised)
    summary, output = take(clip, tmp_path / "in", tmp_path / "out")
    found = output.read_json("normalisation.json")
    assert found["image"]["normalised"] is found["text"]["normalised"] is normalised
    assert summary.metrics["image/normalised"] == normalised
    assert [identity.normalised for identity in read_clips(output)] == [normalised]
    embeddings = ClipEncoder(EmbedClipConfig(clip=clip).clip, device="cpu", normalised=normalised).encode_texts(["a"])
    assert (abs(float(embeddings.norm()) - 1) < 1e-3) is normalised


def test_one_norm_that_is_off_marks_raw_embeddings(clip, tmp_path):
    layout(tmp_path / "in", list("abcdef"), files=1, text=False, dtype=np.float32)
    file = tmp_path / "in/img_emb/img_emb_0000.npy"
    rows = np.load(file)
    rows[3] *= 1.002
    np.save(file, rows)
    _, output = take(clip, tmp_path / "in", tmp_path / "out")
    assert output.read_json("normalisation.json")["image"]["normalised"] is False
    assert shard_rows(output) == {"00000": 6}


@pytest.fixture
def shards(tmp_path):
    """Shards of six images that were another's, so that they have new keys; one of them was not embedded there."""
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for index in range(6):
            image = save_image(tmp_path / "images" / f"other{index}.png", color=(index * 40, 0, 0), size=(20, 20))
            tar.add(image, image.name)
    config = DownloadShardsConfig(source={"kind": "webdataset", "path": str(tmp_path)}, encode_format="png")
    run_download(config, {}, Output(str(tmp_path / "shards"), "download_shards", "test"), make_context())
    return tmp_path / "shards"


def test_embeddings_join_shards_by_the_key_that_the_images_had(clip, shards, tmp_path):
    keys = ["other4", "nothing", "other1", "other0", "other2", "other3", "other1"]
    image, _ = layout(tmp_path / "in", keys, files=3)
    summary, output = take(clip, tmp_path / "in", tmp_path / "out", shards=shards)
    assert dict(summary.counts) == {
        "images": 5, "captioned": 3, "failed_no_embedding": 1, "embeddings_without_image": 1, "repeated_keys": 1,
    }  # fmt: skip
    metadata = pq.read_table(output.local("metadata/metadata_00000.parquet")).to_pydict()
    ours = [sample.key for sample in read_shard(shards / "shards/00000.tar")]
    assert metadata["key"] == ours[:5]
    expected = image[[keys.index(f"other{index}") for index in range(5)]].astype(np.float32)
    assert np.array_equal(np.load(output.local("img_emb/img_emb_00000.npy")), expected)


def test_rows_that_are_no_numbers_are_counted(clip, tmp_path):
    layout(tmp_path / "in", list("abcd"), files=1)
    file = tmp_path / "in/img_emb/img_emb_0000.npy"
    rows = np.load(file)
    rows[1, 2] = np.nan
    np.save(file, rows)
    summary, output = take(clip, tmp_path / "in", tmp_path / "out")
    assert dict(summary.counts) == {"images": 3, "captioned": 2, "failed_not_finite": 1}
    assert pq.read_table(output.local("metadata/metadata_00000.parquet"))["key"].to_pylist() == ["a", "c", "d"]


def test_an_interrupted_import_goes_on_to_the_same_bytes(clip, tmp_path):
    layout(tmp_path / "in", list("abcdef"), files=3)
    take(clip, tmp_path / "in", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        take(clip, tmp_path / "in", tmp_path / "cut", context=make_context(map_shards=interrupt_after(1)))
    take(clip, tmp_path / "in", tmp_path / "cut")
    assert folder_digests(tmp_path / "cut") == folder_digests(tmp_path / "whole")


def test_what_does_not_fit_is_refused_in_a_sentence(clip, tmp_path):
    layout(tmp_path / "wide", list("ab"), files=1, dim=DIM + 1)
    with pytest.raises(InputFault, match=r"have 17 dimensions, but clip.models give 16: name the models"):
        take(clip, tmp_path / "wide", tmp_path / "out")
    layout(tmp_path / "odd", list("ab"), files=2)
    (tmp_path / "odd/metadata/metadata_0001.parquet").unlink()
    with pytest.raises(InputFault, match=r"2 files img_emb/\*.npy and 1 of metadata \(number 0001 is not on both"):
        take(clip, tmp_path / "odd", tmp_path / "out")
    layout(tmp_path / "nameless", list("ab"), key_column="hash")
    with pytest.raises(InputFault, match="has no column key or image_path: allowed are its columns hash, caption"):
        take(clip, tmp_path / "nameless", tmp_path / "out")
    _, output = take(clip, tmp_path / "nameless", tmp_path / "out", key_column="hash")
    assert shard_rows(output) == {"00000": 1, "00001": 1}


def test_the_embedding_reader_of_others_reads_our_values(clip, shards, tmp_path):
    config = EmbedClipConfig(clip=clip, storage="float16")
    output = Output(str(tmp_path / "out"), "embed_clip", "test")
    run(config, {"download_shards": Artifact(str(shards), "download_shards", "test")}, output, make_context())
    reader = EmbeddingReader(
        output.path("img_emb"), file_format="parquet_npy", metadata_folder=output.path("metadata"), meta_columns=["key"]
    )
    ((embeddings, metadata),) = list(reader(batch_size=100, show_progress=False))
    assert (reader.count, reader.dimension) == (6, DIM)
    assert np.array_equal(embeddings, np.load(output.local("img_emb/img_emb_00000.npy")).astype(np.float32))
    assert metadata["key"].tolist() == [sample.key for sample in read_shard(shards / "shards/00000.tar")]
    assert json.loads((tmp_path / "out/units/00000.json").read_text())["rows"] == reader.count
