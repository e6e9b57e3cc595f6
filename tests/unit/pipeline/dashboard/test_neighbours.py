"""Searching in embeddings finds what a plain loop over all pairs finds; leaks are of held-out images alone."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.dashboard.neighbours import EmbeddingIndex, split_of_plan
from pipeline.dashboard.projection import Projection
from pipeline.store import Store
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.formats.splits import SplitConfig, split_numbers
from stages.storage.artifact import Artifact

DIM, ROWS = 6, (7, 5)


@pytest.fixture
def embeddings(tmp_path: Path) -> Artifact:
    store = Store(str(tmp_path))
    store.open_for_writing()
    output = store.output("embed_clip", "e")
    rng = np.random.default_rng(0)
    for number, count in enumerate(ROWS):
        image = rng.normal(size=(count, DIM))
        image[-1] = 3 * image[0] + 1e-4
        text = image + np.arange(count)[:, None] * rng.normal(size=(count, DIM))
        text[1] = np.nan
        captions = [None if row == 1 else f"caption {number} {row}" for row in range(count)]
        keys = [f"{number}{row}" for row in range(count)]
        content = ShardEmbeddings(keys, captions, [image], EncodedCaptions([text]))
        content.write(f"{number:05d}", output, storage=np.dtype(np.float32), embed_dim=DIM, widths={})
        output.finish_unit(f"{number:05d}", {"rows": count, "captioned": count - 1, "failures": {}})
    output.write_json("clips.json", [{"reference": "x", "digest": "0" * 64, "embed_dim": DIM, "image_size": 8}])
    return store.artifact("embed_clip", "e")


def test_the_nearest_are_those_of_a_plain_loop(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings)
    query = np.random.default_rng(1).normal(size=DIM)
    scores = [float(row @ query / np.linalg.norm(query)) for row in index.units]
    found = index.nearest(query, 3)
    assert [one.row for one in found] == list(np.argsort(scores)[::-1][:3])
    assert [one.score for one in found] == pytest.approx(sorted(scores)[::-1][:3], abs=1e-6)
    assert [index.row(*index.position(row)) for row in range(sum(ROWS))] == list(range(sum(ROWS)))
    assert index.row("00009", "00") is index.row("00000", "10") is None


def test_near_duplicates_are_each_pair_once(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings)
    found = index.near_duplicates(0.999, 10)
    assert {(one.first, one.second) for one in found.pairs} == {(0, 6), (7, 11)}
    assert found.first == sum(ROWS)


def test_leaks_pair_a_held_out_row_with_one_of_training(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings)
    is_held_out = np.arange(sum(ROWS)) == 6
    found = index.leaks(is_held_out, 0.999, 10)
    ((one),) = found.pairs
    assert (one.first, one.second) == (6, 0)
    assert (found.first, found.second) == (1, sum(ROWS) - 1)
    assert index.leaks(np.zeros(sum(ROWS), bool), 0.5, 10).pairs == []
    split = SplitConfig(validation=0.3, test=0.2, seed=4)
    assert (index.held_out(split) == (split_numbers(index.keys, split) < 0.5)).all()


def test_of_more_rows_the_number_that_was_compared_is_returned(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings)
    found = index.near_duplicates(0.999, 10, most=7)
    assert ([(one.first, one.second) for one in found.pairs], found.first) == ([(0, 6)], 7)
    leaks = index.leaks(np.arange(sum(ROWS)) < 7, 0.999, 10, most=3)
    assert (leaks.pairs, leaks.first, leaks.second) == ([], 3, 3)


def test_the_lowest_scores_leave_out_what_has_no_caption(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings)
    found = index.lowest(20)
    assert {one.row for one in found} == set(range(sum(ROWS))) - {1, 8}
    assert [one.score for one in found] == sorted(one.score for one in found)
    assert index.captions([1, 8, 9]) == {1: [], 8: [], 9: ["caption 1 2"]}


def test_of_more_than_fits_the_first_shards_are_searched(embeddings: Artifact) -> None:
    index = EmbeddingIndex.read(embeddings, most_bytes=4 * DIM * 8)
    assert (index.shards, len(index.units), index.total) == (("00000",), 7, 12)


def test_the_split_of_a_run() -> None:
    split = {"validation": 0.1, "test": 0.0, "seed": 3}
    assert split_of_plan({"download_shards": {}, "train_prior": {"split": split}}) == SplitConfig(**split)
    assert split_of_plan({"download_shards": {}}) is None


def test_the_projection_keeps_distances_along_its_plane(embeddings: Artifact, tmp_path: Path) -> None:
    import torch

    from models.gaussians.kmeans import FittedGaussians
    from stages.formats.gaussians import GaussianFit, write_gaussians

    index = EmbeddingIndex.read(embeddings)
    output = Store(str(tmp_path)).output("fit_gaussians", "g")
    rows = np.concatenate([np.load(path) for path in sorted((tmp_path / "artifacts/embed_clip/e/img_emb").iterdir())])
    means = torch.tensor(rows[[0, 7]], dtype=torch.float32)
    fitted = FittedGaussians(means, torch.full((2, DIM), 2.0), torch.tensor([8, 4]), (1.0,), True, True)
    sizes = {"num_gaussians": 2, "embeddings": 12, "sample_size": 12, "counts": (8, 4)}
    ended = {"iterations": 1, "converged": True, "inertias": (1.0,)}
    fit = GaussianFit.model_validate({"clip": (), "method": "kmeans", "kind": "euclidean", "seed": 0} | sizes | ended)
    write_gaussians(output, fitted, fit)
    found = Projection.of(Store(str(tmp_path)).artifact("fit_gaussians", "g"), embeddings)
    assert found.rows[[0, 7]] == pytest.approx(found.means, abs=1e-5)
    assert found.radii == pytest.approx([2.0, 2.0])
    assert found.nearest(0, 1) == [0]
    assert found.positions[7] == index.position(7)
    assert 0 < found.explained[1] <= found.explained[0] <= 1
    covariance = np.cov((rows - rows.mean(axis=0)).T)
    assert found.explained[0] == pytest.approx(np.linalg.eigvalsh(covariance)[-1] / np.trace(covariance), rel=1e-6)
