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
from stages.embed_clip.config import EmbedClipConfig, ExistingEmbeddings
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


def make_shards(folder, tars, *, addresses=False, captions=None):
    """Make shards of tars of others, each given as the names of its samples; every image has a color of its own."""
    number = 0
    for tar_name, names in tars.items():
        with tarfile.open(folder / f"{tar_name}.tar", "w") as tar:
            for name in names:
                color = (number * 40 % 256, number * 70 % 256, 100)
                image = save_image(folder / f"images/{tar_name}" / f"{name}.png", color=color, size=(20, 20))
                tar.add(image, image.name)
                if addresses:
                    image.with_suffix(".json").write_text(json.dumps({"url": f"https://a.example/{tar_name}/{name}"}))
                    tar.add(image.with_suffix(".json"), f"{name}.json")
                if captions is not None and captions[number] is not None:
                    image.with_suffix(".json").write_text(json.dumps({"captions": captions[number]}))
                    tar.add(image.with_suffix(".json"), f"{name}.json")
                number += 1
    config = DownloadShardsConfig(source={"kind": "webdataset", "path": str(folder)}, encode_format="png")
    run_download(config, {}, Output(str(folder / "shards"), "download_shards", "test"), make_context())
    return folder / "shards"


@pytest.fixture
def shards(tmp_path):
    """Shards of six images that were another's, so that they have new keys; one of them was not embedded there."""
    return make_shards(tmp_path, {"00000": [f"other{index}" for index in range(6)]})


def joined_rows(output):
    """Return keys, image embeddings and captions of all shards."""
    rows = [load_captioned_rows(output, shard, CaptionsConfig()) for shard in shard_rows(output)]
    return [key for part in rows for key in part.keys], np.concatenate([part.image for part in rows])


def sample_keys_of(shards):
    return [[sample.key for sample in read_shard(tar)] for tar in sorted((shards / "shards").glob("*.tar"))]


def test_embeddings_join_shards_by_the_key_that_the_images_had(clip, shards, tmp_path):
    keys = ["other4", "nothing", "other1", "other0", "other2", "other3"]
    image, _ = layout(tmp_path / "in", keys, files=3)
    summary, output = take(clip, tmp_path / "in", tmp_path / "out", shards=shards)
    assert dict(summary.counts) == {
        "images": 5, "captioned": 3, "failed_no_embedding": 1, "embeddings_without_image": 1,
    }  # fmt: skip
    metadata = pq.read_table(output.local("metadata/metadata_00000.parquet")).to_pydict()
    assert metadata["key"] == sample_keys_of(shards)[0][:5]
    expected = image[[keys.index(f"other{index}") for index in range(5)]].astype(np.float32)
    assert np.array_equal(np.load(output.local("img_emb/img_emb_00000.npy")), expected)


def test_a_key_of_several_tars_gives_no_row_to_two_images(clip, tmp_path):
    numbered = [f"{index:06d}" for index in range(2)]
    shards = make_shards(tmp_path, {"a": [*numbered, "alone"], "b": numbered})
    image, _ = layout(tmp_path / "both", [*numbered, "alone", *numbered])
    summary, output = take(clip, tmp_path / "both", tmp_path / "out", shards=shards)
    assert dict(summary.counts) == {
        "images": 1, "captioned": 0, "failed_ambiguous_key": 4, "repeated_keys": 2, "embeddings_without_image": 2,
    }  # fmt: skip
    metadata = pq.read_table(output.local("metadata/metadata_00000.parquet")).to_pydict()
    assert metadata["key"] == [sample_keys_of(shards)[0][2]]
    assert np.array_equal(np.load(output.local("img_emb/img_emb_00000.npy")), image[2:3].astype(np.float32))

    layout(tmp_path / "one", [*numbered, "alone"])  # of a.tar alone: which images these rows are of is not said
    summary, _ = take(clip, tmp_path / "one", tmp_path / "out2", shards=shards)
    assert dict(summary.counts) == {
        "images": 1, "captioned": 0, "failed_ambiguous_key": 4, "embeddings_without_image": 2,
    }  # fmt: skip


def test_where_all_keys_are_ambiguous_another_column_is_asked_for_and_joins(clip, tmp_path):
    numbered = [f"{index:06d}" for index in range(3)]
    shards = make_shards(tmp_path, {"a": numbered, "b": numbered}, addresses=True)
    image, _ = layout(tmp_path / "in", numbered * 2)
    message = "6 images have a key in the column of keys.*'000000', as in.*: set key_column to such a column"
    with pytest.raises(InputFault, match=message):
        take(clip, tmp_path / "in", tmp_path / "out", shards=shards)
    urls = [f"https://a.example/{tar}/{name}" for tar in "ab" for name in numbered]
    for number, rows in enumerate(np.array_split(np.arange(6), 2)):
        file = tmp_path / f"in/metadata/metadata_{number:04d}.parquet"
        pq.write_table(pq.read_table(file).append_column("url", pa.array([urls[row] for row in rows])), file)
    summary, output = take(clip, tmp_path / "in", tmp_path / "out", shards=shards, key_column="url")
    assert dict(summary.counts) == {"images": 6, "captioned": 4}
    keys, embeddings = joined_rows(output)
    ours = [key for tar in sample_keys_of(shards) for key in tar]
    assert [ours.index(key) for key in keys] == [0, 1, 3, 4]
    assert np.array_equal(embeddings, image[[0, 1, 3, 4]].astype(np.float32))


def test_a_layout_of_other_tars_that_count_alike_is_refused_by_its_captions(clip, tmp_path):
    numbered = [f"{index:06d}" for index in range(18)]
    layout(tmp_path / "in", numbered, files=3)  # of a.tar: caption 0, caption 1, none, caption 3, ...
    (tmp_path / "b").mkdir()
    captions: list[list[str] | None] = [["a b.tar caption", f"another {number}"] for number in range(18)]
    captions[3] = ["further", " caption  3 "]  # as chance has it
    captions[4] = None
    others = make_shards(tmp_path / "b", {"b": numbered}, captions=captions)
    message = r"10 of 11 joined images have another caption .*'a b.tar caption' in the shards.*same_captions: false"
    with pytest.raises(InputFault, match=message):
        take(clip, tmp_path / "in", tmp_path / "out", shards=others)
    summary, _ = take(clip, tmp_path / "in", tmp_path / "out", shards=others, same_captions=False)
    assert dict(summary.counts) == {"images": 18, "captioned": 12, "other_captions": 10}

    (tmp_path / "a").mkdir()
    captions = [[f"caption {number}"] for number in range(18)]
    captions[:2] = [["changed"], ["changed"]]
    own = make_shards(tmp_path / "a", {"a": numbered}, captions=captions)
    summary, _ = take(clip, tmp_path / "in", tmp_path / "out2", shards=own)
    assert dict(summary.counts) == {"images": 18, "captioned": 12, "other_captions": 2}
    configs = [ExistingEmbeddings(path=str(tmp_path / "in"), same_captions=same) for same in (True, False)]
    assert configs[0].identity() == configs[1].identity()


def test_rows_of_one_key_count_as_one_where_they_are_equal_and_as_none_where_they_differ(clip, shards, tmp_path):
    keys = ["other0", "other1", "other2", "other0", "other1", "other1"]
    image, text = layout(tmp_path / "in", keys, files=3)
    image, text = image.copy(), text.copy()
    image[3], text[3], text[4] = image[0], text[0], text[1]  # of other1, the images differ
    captions = [f"caption {row % 3}" for row in range(6)]
    for number, rows in enumerate(np.array_split(np.arange(6), 3)):
        np.save(tmp_path / f"in/img_emb/img_emb_{number:04d}.npy", image[rows])
        np.save(tmp_path / f"in/text_emb/text_emb_{number:04d}.npy", text[rows])
        table = pa.table({"key": [keys[row] for row in rows], "caption": [captions[row] for row in rows]})
        pq.write_table(table, tmp_path / f"in/metadata/metadata_{number:04d}.parquet")
    summary, output = take(clip, tmp_path / "in", tmp_path / "out", shards=shards)
    assert dict(summary.counts) == {
        "images": 2, "captioned": 2, "failed_no_embedding": 3, "failed_ambiguous_key": 1, "repeated_keys": 3,
        "embeddings_without_image": 1,
    }  # fmt: skip
    keys, embeddings = joined_rows(output)
    assert [sample_keys_of(shards)[0].index(key) for key in keys] == [0, 2]
    assert np.array_equal(embeddings, image[[0, 2]].astype(np.float32))


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
