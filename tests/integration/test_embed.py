"""The embedding stage on real shards: alignment, failures, resume, several models."""

import io
import json
import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Event
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run as run_download
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig
from stages.formats.shards import read_shard
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.checksums import FileSum, sealed
from tests.factories import folder_digests, interrupt_after, make_context, save_tiny_clip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    source = {"kind": "scenes", "num_images": 20, "resolution": 32}
    config = DownloadShardsConfig(source=source, rows_per_shard=8, encode_format="png")
    run_download(config, {}, Output(str(folder), "download_shards", "test"), make_context())
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [save_tiny_clip(root / "a", seed=0, embed_dim=16), save_tiny_clip(root / "b", seed=1, embed_dim=24)]


def make_config(clips, **options):
    models = [{"kind": "folder", "path": clip} for clip in clips]
    return EmbedClipConfig(**({"clip": {"models": models}, "batch_size": 3, "storage": "float32"} | options))


def embed(config, shards, folder, *, context=None):
    inputs = {"download_shards": Artifact(str(shards), "download_shards", "test")}
    return run(config, inputs, Output(str(folder), "embed_clip", "test"), context or make_context())


def load(folder, kind, shard="00000"):
    return np.load(folder / kind / f"{kind}_{shard}.npy")


@pytest.fixture(scope="module")
def embedded(shards, clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    events: list[Event] = []
    return folder, embed(make_config(clips), shards, folder, context=make_context(events)), events


def rewrite_shard(source, target, change):
    """Copy a shards folder with members of the first shard changed: (name, content) to content or None.

    It is as if they had been so when the shard was made: the records hold its checksum.
    """
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with tarfile.open(source / "shards/00000.tar") as old, tarfile.open(target / "shards/00000.tar", "w") as new:
        for member in old.getmembers():
            content = change(member.name, old.extractfile(member).read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    name = unit_record("00000")
    record, files = Artifact(str(target), "download_shards", "0").read_record(name)
    files = (files or {}) | {"shards/00000.tar": FileSum.of(target / "shards/00000.tar")}
    (target / name).write_text(json.dumps(sealed(record, files)))
    return target


def test_rows_are_aligned_with_keys_images_and_captions(embedded, shards, clips):
    folder, _, _ = embedded
    encoder = ClipEncoder(ClipConfig(models=[{"kind": "folder", "path": clip} for clip in clips]), device="cpu")
    for shard in ("00000", "00001", "00002"):
        samples = list(read_shard(shards / f"shards/{shard}.tar"))
        metadata = pd.read_parquet(folder / f"metadata/metadata_{shard}.parquet")
        assert metadata["key"].tolist() == [sample.key for sample in samples]
        assert metadata["caption"].tolist() == [sample.captions[0] for sample in samples]
        assert metadata["has_caption"].all()
        images = encoder.encode_images([Image.open(io.BytesIO(sample.image or b"")) for sample in samples])
        texts = encoder.encode_texts([sample.captions[0] for sample in samples])
        torch.testing.assert_close(torch.from_numpy(load(folder, "img_emb", shard)), images, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(load(folder, "text_emb", shard)), texts, rtol=1e-5, atol=1e-5)


def test_it_describes_itself(embedded, clips):
    folder, summary, events = embedded
    assert summary.items == 20
    assert summary.counts == {"images": 20, "captioned": 20}
    assert summary.metrics == {"embed_dim": 40}
    assert [(event.done, event.items) for event in events] == [(0, 0), (1, 8), (2, 16), (3, 20)]
    models = json.loads((folder / "clips.json").read_text())
    assert [(clip["reference"], clip["embed_dim"]) for clip in models] == [(str(clips[0]), 16), (str(clips[1]), 24)]
    assert json.loads((folder / "plan.json").read_text())["units"] == 3


def test_one_clip_is_the_first_block_of_two(embedded, shards, clips, tmp_path):
    folder, _, _ = embedded
    embed(make_config(clips[:1]), shards, tmp_path)
    assert np.array_equal(load(tmp_path, "img_emb"), load(folder, "img_emb")[:, :16])
    assert np.array_equal(load(tmp_path, "text_emb"), load(folder, "text_emb")[:, :16])


def test_half_precision_is_the_same_numbers_rounded(embedded, shards, clips, tmp_path):
    folder, _, _ = embedded
    embed(make_config(clips, storage="float16"), shards, tmp_path)
    assert np.array_equal(load(tmp_path, "img_emb"), load(folder, "img_emb").astype(np.float16))


def test_a_killed_run_resumes_to_the_same_bytes(embedded, shards, clips, tmp_path):
    folder, _, _ = embedded
    with pytest.raises(KeyboardInterrupt):
        embed(make_config(clips), shards, tmp_path, context=make_context(map_shards=interrupt_after(2)))
    written = (tmp_path / "img_emb/img_emb_00001.npy").stat().st_mtime_ns
    events: list[Event] = []
    embed(make_config(clips), shards, tmp_path, context=make_context(events))
    assert [event.done for event in events] == [2, 3]
    assert (tmp_path / "img_emb/img_emb_00001.npy").stat().st_mtime_ns == written
    assert folder_digests(tmp_path) == folder_digests(folder)


def test_bad_images_are_left_out_and_missing_captions_are_nan(embedded, shards, clips, tmp_path):
    folder, _, _ = embedded

    def change(name, content):
        if name == "00001.png":
            return content[:40]
        if name == "00002.png":
            return None
        return None if name == "00003.txt" else content

    names = [sample.key for sample in read_shard(shards / "shards/00000.tar")]
    short = {key: f"{index:05d}" for index, key in enumerate(names)}
    changed = rewrite_shard(
        shards, tmp_path / "shards", lambda name, content: change(short[name[:-4].split(".")[0]] + name[-4:], content)
    )
    summary = embed(make_config(clips), changed, tmp_path / "out")
    assert summary.counts == {
        "images": 18,
        "captioned": 17,
        "failed_corrupt_image": 1,
        "failed_no_image": 1,
    }
    metadata = pd.read_parquet(tmp_path / "out/metadata/metadata_00000.parquet")
    assert metadata["key"].tolist() == [names[index] for index in (0, 3, 4, 5, 6, 7)]
    assert metadata["has_caption"].tolist() == [True, False, True, True, True, True]
    assert metadata["caption"].isna().tolist() == [False, True, False, False, False, False]
    text, whole = load(tmp_path / "out", "text_emb"), load(folder, "text_emb")
    assert np.isnan(text[1]).all()
    np.testing.assert_allclose(text[[0, 2, 3, 4, 5]], whole[[0, 4, 5, 6, 7]], rtol=1e-5, atol=1e-5)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def unusual_images():
    """Pairs of files: a strange one, and the plain RGB image that it stands for."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned to the right
    grey = rng.integers(0, 65536, (32, 32), dtype=np.uint16)
    rounded = np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    half = image.convert("RGBA")
    half.putalpha(0)
    return {
        "turned by EXIF": (encoded(image, exif=exif), encoded(image.transpose(Image.Transpose.ROTATE_270))),
        "16 bits": (encoded(Image.fromarray(grey)), encoded(Image.fromarray(rounded))),
        "transparent": (encoded(half), encoded(Image.new("RGB", (32, 32), "white"))),
    }


def test_unusual_images_are_embedded_as_they_are_meant(shards, clips, tmp_path):
    for name, pair in unusual_images().items():
        rows = []
        for number, content in enumerate(pair):
            folder = tmp_path / f"{name}-{number}"
            changed = rewrite_shard(
                shards, folder / "shards", lambda file, old, new=content: new if file.endswith("png") else old
            )
            embed(make_config(clips), changed, folder / "out")
            rows.append(load(folder / "out", "img_emb"))
        assert np.array_equal(*rows), name


def test_shards_without_a_readable_image_are_refused(shards, clips, tmp_path):
    empty = rewrite_shard(shards, tmp_path / "shards", lambda name, content: None)
    for unit in ("00001", "00002"):
        (empty / f"units/{unit}.json").unlink()
    with pytest.raises(InputFault, match="hold no readable image"):
        embed(make_config(clips), empty, tmp_path / "out")
    assert load(tmp_path / "out", "img_emb").shape == (0, 40)


def test_weights_that_changed_behind_the_name_are_refused(shards, clips, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(make_config(clips[:1]), shards, tmp_path, context=make_context(map_shards=interrupt_after(1)))
    with pytest.raises(ArtifactError, match="the weights behind the name have changed"):
        embed(make_config(clips[1:]), shards, tmp_path)


def test_a_trained_model_is_used_like_a_folder_and_named_by_its_content(shards, clips, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(clips[0], trained / "clip")
    config = EmbedClipConfig(clip={"models": [{"kind": "trained"}, {"kind": "folder", "path": str(clips[1])}]})
    assert config.inputs == ("download_shards", "train_clip")
    inputs = {
        "download_shards": Artifact(str(shards), "download_shards", "test"),
        "train_clip": Artifact(str(trained), "train_clip", "abc"),
    }
    output = Output(str(tmp_path / "by_stage"), "embed_clip", "test")
    run(config, inputs, output, make_context())
    folders = EmbedClipConfig(clip={"models": [{"kind": "folder", "path": str(path)} for path in clips]})
    expected = Output(str(tmp_path / "by_folder"), "embed_clip", "test")
    run(folders, {"download_shards": inputs["download_shards"]}, expected, make_context())

    found, wanted = folder_digests(tmp_path / "by_stage"), folder_digests(tmp_path / "by_folder")
    assert {name for name in wanted if wanted[name] != found.get(name)} == {"clips.json"}
    assert [clip["reference"] for clip in output.read_json("clips.json")] == ["train_clip/abc", str(clips[1])]
