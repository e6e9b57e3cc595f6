"""``corgi sweep``: one experiment in several variants, one table."""

import csv
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.e2e.conftest import ROOT, SMOKE, Finished, corgi
from tests.factories import save_tiny_clip

pytestmark = pytest.mark.timeout(1000)
WITHOUT_IMAGES = {"train_decoder": None, "generate": None, "evaluate": None}
SWEEP = {
    "base": "priors.yaml",
    "groups": {
        "narrow": {"set": {"train_prior.kappa": 1.0}},
        "untrained": {"set": {"train_prior": None}, "grid": {"fit_gaussians.num_gaussians": [2, 4000]}},
    },
    "table": {"cosine": "train_prior/cosine_true", "spread": "fit_gaussians/mean_std"},
    "plots": {"by_steps": {"figure": "train_prior/cosine_true/steps_*", "x_label": "sampling steps"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base experiment, which ends with the prior, and a sweep of it of which one variant cannot succeed."""
    folder = tmp_path_factory.mktemp("sweep")
    base = yaml.safe_load(SMOKE.read_text())
    base |= {"extends": str(SMOKE), "name": "priors", "store": str(folder / "store"), **WITHOUT_IMAGES}
    (folder / "priors.yaml").write_text(yaml.safe_dump(base))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path) -> Finished:
    return corgi("sweep", folder / "sweep.yaml", "--json", timeout=900)


def test_a_failed_variant_is_reported_and_the_others_are_there(swept: Finished) -> None:
    assert swept.code == 3, swept.err
    assert [run["status"] for run in swept.document["runs"]] == ["done", "done", "failed"]
    assert "num_gaussians" in swept.err  # the cause, in words
    figures = [entry["figures"] for entry in swept.document["variants"]]
    assert ["train_prior/cosine_true" in found for found in figures] == [True, False, False]
    (of_three,), (of_two,) = (found["fit_gaussians/mean_std"] for found in figures[:2])
    assert of_three != of_two
    assert "fit_gaussians/mean_std" not in figures[2]


def test_table_and_plot_are_written(folder: Path, swept: Finished) -> None:
    outcome = folder / "store" / "sweeps" / "sweep"
    assert swept.document["folder"] == str(outcome)
    rows = list(csv.reader((outcome / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows] == [
        "variant",
        "narrow",
        "untrained, num_gaussians 2",
        "untrained, num_gaussians 4000",
    ]
    assert rows[3][1:] == ["failed", "failed", "1"]
    assert (outcome / "by_steps.png").stat().st_size > 5000


def test_what_the_variants_have_in_common_is_made_once(folder: Path, swept: Finished) -> None:
    assert swept.code == 3
    made = {stage.name: len(list(stage.iterdir())) for stage in (folder / "store" / "artifacts").iterdir()}
    assert (made["download_shards"], made["embed_clip"], made["train_prior"]) == (1, 1, 1)


def test_a_second_sweep_runs_only_what_is_left(folder: Path, swept: Finished) -> None:
    assert swept.code == 3
    planned = corgi("sweep", folder / "sweep.yaml", "--plan", "--json")
    assert planned.code == 0, planned.err
    assert [run["stages_left"] for run in planned.document["runs"]] == [0, 0, 1]


@pytest.mark.thorough
@pytest.mark.timeout(700)
def test_the_ablation_runs_on_embeddings_that_there_are_already(tmp_path: Path) -> None:
    """Those of ViT-B/32 by their shape: 512 numbers of length 10.5, two dimensions of a large mean."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(240, 512)).astype(np.float32)
    image = 0.6 * text + 0.5 * rng.normal(size=text.shape).astype(np.float32)
    for name, rows in (("img_emb", image), ("text_emb", text)):
        scaled = rows * 10.5 / np.linalg.norm(rows, axis=1, keepdims=True)
        scaled[:, :2] += 6.0
        (tmp_path / "embeddings" / name).mkdir(parents=True)
        np.save(tmp_path / "embeddings" / name / f"{name}_0000.npy", scaled.astype(np.float16))
    (tmp_path / "embeddings/metadata").mkdir()
    table = pa.table({"key": [f"{n:05d}" for n in range(240)], "caption": [f"caption {n}" for n in range(240)]})
    pq.write_table(table, tmp_path / "embeddings/metadata/metadata_0000.parquet")
    sweep = yaml.safe_load((ROOT / "configs/ablation.yaml").read_text())
    variant = {"train_prior.standardise": ["none"]}
    groups = {
        name: sweep["groups"][name] | {"grid": grid}
        for name, grid in {"baseline": variant, "shifted": variant | {"fit_gaussians.num_gaussians": [4]}}.items()
    }
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(sweep | {"groups": groups, "repeat": None}))
    clip = save_tiny_clip(tmp_path / "clip", embed_dim=512)
    small = {"network.width": 32, "network.num_layers": 1, "network.num_heads": 2, "validation.num_steps": [1, 4],
             "training.num_steps": 4, "training.warmup_steps": 1, "training.validation_interval": 4,
             "training.batch_size": 16}  # fmt: skip
    swept = corgi(
        "sweep", tmp_path / "ablation.yaml", "--json", "--base", ROOT / "configs/ablation/existing.yaml",
        f"embed_clip.existing.path={tmp_path / 'embeddings'}", f"store={tmp_path / 'store'}",
        f"clip.models=[{{kind: folder, path: {clip}}}]", "tracking.register_model=false",
        *(f"train_prior.{key}={value}" for key, value in small.items()),
    )  # fmt: skip
    assert swept.code == 0, swept.err
    for found in swept.document["variants"]:
        figures = found["figures"]
        for name in ("cosine_centred", "mmd", "diversity", "retrieval_at_1"):
            (figure,) = figures[f"train_prior/{name}"]
            assert math.isfinite(figure)
