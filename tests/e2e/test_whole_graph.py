"""The whole graph on tiny data, seen from the command line: what runs, what is kept, what is reported."""

import json
import re
import resource
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.loading import load_config
from pipeline.store import Store
from tests.e2e.conftest import SMOKE, Finished, clean_environment, corgi
from tests.fresh_environment import make_fresh_environment

SMOKE_STAGES = list(load_config(SMOKE).stages())


def test_every_stage_is_done_and_reported(undisturbed: tuple[Path, Finished]) -> None:
    _, done = undisturbed
    document = done.document
    assert document["status"] == "done"
    assert done.states == dict.fromkeys(SMOKE_STAGES, "done")
    assert all(stage["seconds"] > 0 for stage in document["stages"])
    assert {"evaluate/accuracy/both", "train_decoder/held_out_loss"} <= set(document["metrics"])
    for name in SMOKE_STAGES:
        assert (Path(document["artifacts"][name]) / "_COMPLETE").exists()
    assert (Path(document["artifacts"]["generate"]) / "grid.png").stat().st_size > 0


def test_dead_and_corrupt_entries_are_counted_by_cause(undisturbed: tuple[Path, Finished]) -> None:
    download = undisturbed[1].document["stages"][0]
    lost = {name: count for name, count in download["counts"].items() if name.startswith("failed_")}
    assert sum(lost.values()) == 6
    assert len(lost) >= 2


def test_a_second_run_does_nothing_quickly(undisturbed: tuple[Path, Finished]) -> None:
    store, first = undisturbed
    before = _seconds_of_children()
    again = corgi("run", SMOKE, f"store={store}", "--json")
    assert again.code == 0
    assert _seconds_of_children() - before < 20  # no Ray, no torch; the figure itself is measured by the benchmarks
    assert set(again.states.values()) == {"reused"}
    assert again.document["metrics"] == first.document["metrics"]
    assert "everything is done" in again.err
    table = corgi("run", SMOKE, f"store={store}").out
    assert "reused" in table
    assert "used: 90 images" in table
    assert f"export {first.document['run']} my-model" in table
    assert "scheduling" not in table  # what the first run took is not shown again


def _seconds_of_children() -> float:
    """Return the processors' time that all ended children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_decoder_key_reruns_the_decoder_and_what_follows(undisturbed: tuple[Path, Finished]) -> None:
    change = ["train_decoder.training.learning_rate=0.0005", f"store={undisturbed[0]}"]
    plan = corgi("plan", SMOKE, *change, "--json").document["stages"]
    assert {s["name"]: s["state"] for s in plan if s["state"] != "done"} == dict.fromkeys(
        ["train_decoder", "generate", "evaluate"], "new"
    )
    assert "training.learning_rate" in next(s["reason"] for s in plan if s["name"] == "train_decoder")


@pytest.mark.thorough
def test_what_a_decoder_key_changes_is_run_and_nothing_else(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    store = shutil.copytree(undisturbed[0], tmp_path / "store")
    done = corgi("run", SMOKE, "train_decoder.training.learning_rate=0.0005", f"store={store}", "--json")
    assert done.code == 0, done.err
    rerun = {name for name, state in done.states.items() if state == "done"}
    assert rerun == {"train_decoder", "generate", "evaluate"}


def test_the_caption_fraction_keeps_download_and_embeddings(undisturbed: tuple[Path, Finished]) -> None:
    plan = corgi("plan", SMOKE, "captions.fraction=0.9", f"store={undisturbed[0]}", "--json").document["stages"]
    states = {stage["name"]: stage["state"] for stage in plan}
    assert [name for name, state in states.items() if state == "done"] == [
        "download_shards", "embed_clip", "fit_gaussians", "train_decoder",
    ]  # fmt: skip


def test_mlflow_holds_one_parent_and_one_child_per_stage(undisturbed: tuple[Path, Finished]) -> None:
    store = undisturbed[0]
    with sqlite3.connect(store / "mlflow.db") as database:
        parents = dict(database.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        names = dict(database.execute("SELECT run_uuid, name FROM runs"))
        doubled = database.execute(
            "SELECT run_uuid, key, step, COUNT(*) FROM metrics WHERE key NOT LIKE 'system/%' "
            "GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
        ).fetchall()
    (parent,) = set(names) - set(parents)
    assert sorted(names[run] for run in parents) == sorted(SMOKE_STAGES)
    assert set(parents.values()) == {parent}
    assert doubled == []


def test_mlflow_holds_the_runs_whole_report(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    """One page with everything in it, logged at the end of the run: it says that the run is done, and asks no host."""
    record = Store(str(undisturbed[0])).find_run("smoke")
    assert record.mlflow is not None
    client = MlflowClient(record.mlflow.tracking_uri)
    assert "report.html" in [found.path for found in client.list_artifacts(record.mlflow.run_id)]
    page = Path(client.download_artifacts(record.mlflow.run_id, "report.html", str(tmp_path))).read_text()
    assert f"<h1>{record.run}</h1>" in page
    assert '<span class="state">done</span>' in page
    assert all(stage in page for stage in SMOKE_STAGES)
    assert page.count('src="data:image/png;base64,') >= 3
    assert re.findall(r"""(?:src|href)=(?!["']?(?:data:|#)).{20}|url\((?!data:)|<script|@import""", page) == []


def test_generate_makes_signed_images(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    from PIL import Image

    run = undisturbed[1].document["run"]
    words = ["--prompt", "a large red star in the center", "--prompt", "a small blue ring at the top", "--seed", "3"]
    done = corgi("generate", run, "--store", undisturbed[0], "--out", tmp_path, *words, "--json")
    assert done.code == 0, done.err
    images = done.document["images"]
    assert [entry["prompt"] for entry in images] == words[1:4:2]
    with Image.open(images[0]["path"]) as image:
        assert image.info["prompt"] == "a large red star in the center"
        assert json.loads(image.info["settings"])
    words = [
        "generate",
        "--again",
        images[1]["path"],
        "--store",
        str(undisturbed[0]),
        "--out",
        str(tmp_path / "again"),
        "--json",
    ]
    again = corgi(*words)
    assert again.code == 0, again.err
    assert again.document["images"][0]["pixel_equal"]
    wrong = corgi("generate", run, "--prompt", "a star", "--steps", "3", "--store", undisturbed[0], "--out", tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "--steps has no use with --prompt" in wrong.err


def test_an_export_needs_no_store_and_makes_the_run_s_images(
    undisturbed: tuple[Path, Finished], tmp_path: Path
) -> None:
    store, done = undisturbed
    run, generated = done.document["run"], Path(done.document["artifacts"]["generate"])
    exported = corgi("export", run, tmp_path / "given", "--store", store, "--licence", "MIT", "--json")
    assert exported.code == 0, exported.err
    assert {"README.md", "bundle.json", "samples.png", "decoder/model.safetensors"} <= set(exported.document["files"])
    assert "license: MIT" in (tmp_path / "given/README.md").read_text()
    rows = [json.loads(line) for line in (generated / "samples.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["set"] == "prior"]
    (tmp_path / "use.py").write_text(USE)
    for name in ("prompts", "files"):
        found = [row["prompt"] if name == "prompts" else str(generated / row["file"]) for row in rows]
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    python = make_fresh_environment(tmp_path / "fresh")
    environment = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
    used = subprocess.run(
        [str(python), "-I", "use.py", str(rows[0]["seed"])], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False, timeout=500,
    )  # fmt: skip
    assert used.stdout.split() == ["12", "equal", "[]"], used.stderr
    shown = corgi("generate", tmp_path / "given", "--prompt", "a red star", "--out", tmp_path / "out", "--json")
    assert shown.code == 0, shown.err
    image = shown.document["images"][0]["path"]
    again = corgi("generate", tmp_path / "given", "--again", image, "--out", tmp_path / "again", "--json")
    assert again.document["images"][0]["pixel_equal"]


USE = """
import importlib.util, json, sys
import numpy as np
from PIL import Image
from pipeline import TextToImage

prompts, files = (json.load(open(f"{name}.json")) for name in ("prompts", "files"))
images = TextToImage.load("given", device="cpu").generate(prompts, seed=int(sys.argv[1]))
equal = all(np.array_equal(image, Image.open(file)) for image, file in zip(images, files, strict=True))
developers = [name for name in ("pytest", "moto", "hypothesis", "s3fs") if importlib.util.find_spec(name)]
print(len(images), "equal" if equal else "different", developers)
"""


def test_a_run_is_evaluated_anew_and_its_record_stays(undisturbed: tuple[Path, Finished]) -> None:
    store, done = undisturbed
    run, record = done.document["run"], store / "runs" / done.document["run"] / "run.json"
    before = record.read_bytes()
    features = "evaluate.features={kind: clip}"
    again = corgi("evaluate", run, features, "--store", store, "--json")
    assert again.code == 0, again.err
    assert record.read_bytes() == before
    states = {stage["name"]: stage["state"] for stage in again.document["stages"]}
    assert {name for name, state in states.items() if state == "done"} == {"evaluate"}
    measure = again.document["measures"]["evaluate/frechet_distance"]
    assert measure["n"] == 12
    compared = corgi("compare", run, again.document["run"], "--store", store)
    assert "not EfficientNet-Lite0 (ImageNet)" in " ".join(compared.out.split())
    refused = corgi("evaluate", run, "train_prior.seed=3", "--store", store)
    assert (refused.code, refused.out) == (2, "")


def test_inspect_shows_what_each_stage_produced(undisturbed: tuple[Path, Finished], tmp_path: Path) -> None:
    store, done = undisturbed
    shown = corgi("inspect", done.document["run"], "--store", store, "--json")
    assert shown.code == 0, shown.err
    stages = {one["stage"]: one for one in shown.document["artifacts"]}
    assert list(stages) == SMOKE_STAGES
    assert stages["download_shards"]["tables"]["counts"]["images"] == 90
    assert any(title.startswith("samples") for title in stages["train_decoder"]["images"])
    written = corgi("report", done.document["run"], "--store", store, "--out", tmp_path / "report.html")
    assert written.code == 0, written.err
    assert (tmp_path / "report.html").read_text().count('<img src="data:') >= 7


def test_status_and_compare_read_the_record(undisturbed: tuple[Path, Finished]) -> None:
    store, done = undisturbed
    run = done.document["run"]
    assert run in [one["run"] for one in corgi("status", "--store", store, "--json").document["runs"]]
    assert corgi("status", run[:7], "--store", store, "--json").document["status"] == "done"
    compared = corgi("compare", run, run, "--store", store, "--json").document
    assert compared["runs"][run]["metrics"] == done.document["metrics"]
    assert compared["runs"][run]["decoder"] == "pixel_diffusion"
    lacking = {name: figure for name, figure in compared["runs"][run]["figures"].items() if figure["value"] is None}
    assert lacking == {"captions/train_clip": {"value": None, "about": "the run has no stage train_clip"}}
