"""Images and embeddings side by side: joined by key, in bounded memory, and large enough."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.rank_link import steps_taken
from stages.contract.errors import InputFault
from stages.training.images.dataset import EmbeddedImages
from stages.training.images.shard_images import ShardImages
from tests.painted_squares import DIM, color_of, embedding_of, make_inputs

IMAGE_BYTES = 3 * 16 * 16


def open_data(folder: Path, cache_bytes: int = 10**6) -> EmbeddedImages:
    inputs = make_inputs(folder)
    return EmbeddedImages(
        inputs["download_shards"], inputs["embed_clip"], resolution=16, cache_bytes=cache_bytes, threads=2
    )


def test_images_are_joined_to_their_own_embeddings(tmp_path: Path) -> None:
    data = open_data(tmp_path)
    images, embeddings = data.rows(np.array([[2, 0], [0, 0], [1, 8], [2, 10], [2, 0]]))
    np.testing.assert_array_equal(images[:, 3, 5], [color_of(row) for row in (31, 11, 12, 21, 31)])
    np.testing.assert_allclose(embeddings[:, :3], images[:, 0, 0] / 255, atol=1e-3)
    assert data.keys(np.array([[1, 8]])) == ["00012"]


def test_no_more_images_are_held_than_fit_the_budget(tmp_path: Path) -> None:
    data = open_data(tmp_path, cache_bytes=5 * IMAGE_BYTES)
    indices = np.array([[shard, row] for shard, size in enumerate((12, 9, 11)) for row in range(size)])
    images, _ = data.rows(indices)
    assert len(images) == 32
    assert len(data.images._held) == 5
    again, _ = data.rows(indices[-5:])
    np.testing.assert_array_equal(again, images[-5:])
    assert data.window_size == 2


def test_statistics_are_those_of_all_embeddings(tmp_path: Path) -> None:
    expected = np.array([embedding_of(row) for row in range(32)])
    data, before = open_data(tmp_path), steps_taken()
    mean, std = data.statistics()
    assert steps_taken() == before + len(data.names), "a group that reads very many shards gets on"
    assert len(mean) == DIM
    np.testing.assert_allclose(mean, expected.mean(0), atol=1e-3)
    np.testing.assert_allclose(std, expected.std(0), atol=1e-3)


def test_images_that_are_too_small_are_reported_before_training(tmp_path: Path) -> None:
    shards = make_inputs(tmp_path)["download_shards"]
    ShardImages(shards, resolution=16, cache_bytes=10**6).require_resolution("00000", "train_decoder.resolution")
    images = ShardImages(shards, resolution=32, cache_bytes=10**6)
    with pytest.raises(InputFault, match=r"train_decoder\.resolution: found 32, but the images .* have 16 pixels"):
        images.require_resolution("00000", "train_decoder.resolution")


def test_a_damaged_image_is_reported_by_shard_and_key(tmp_path: Path) -> None:
    shards = make_inputs(tmp_path)["download_shards"]
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    with tarfile.open(tmp_path / "s/shards/00001.tar", "w") as tar:
        member = tarfile.TarInfo("00042.png")
        member.size = 40
        tar.addfile(member, io.BytesIO(buffer.getvalue()[:40]))
    with pytest.raises(InputFault, match=r"shard 00001, key '00042': the image cannot be decoded"):
        ShardImages(shards, resolution=16, cache_bytes=10**6).read([("00001", "00042")])
