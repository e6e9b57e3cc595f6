"""A source that grows: what is as it was is taken over, with equal bytes; what is new is made."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.training import launch_in_process
from pipeline.config.loading import load_config
from pipeline.plan import PlannedStage, make_plan
from pipeline.store import Store
from stages.contract.runner import run_stage
from stages.contract.stage import StageFunction, StageSummary
from stages.download_shards.growth import GrowthRecord
from stages.download_shards.stage import run as run_download
from stages.embed_clip.stage import run as run_embed
from stages.filter_samples.stage import run as run_filter
from stages.fit_gaussians.stage import run as run_fit
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.embeddings.reader import load_captions, load_keys, open_image_rows, shard_rows
from stages.formats.filtered import filter_inputs
from stages.formats.gaussians import GaussianFit, read_gaussians
from stages.formats.samples import sample_keys
from stages.formats.shards import ShardRecord, read_shard, shard_tar
from stages.storage.artifact import Artifact
from stages.train_prior.stage import run as run_prior
from tests.factories import folder_digests, make_context, save_tiny_clip

RUNS: dict[str, StageFunction] = {
    "download_shards": run_download, "embed_clip": run_embed, "filter_samples": run_filter,
    "fit_gaussians": run_fit, "train_prior": run_prior,
}  # fmt: skip
PRIOR = (
    "{{kind: gaussian, network: {{width: 16, num_layers: 1, num_heads: 2}}, validation: {{num_steps: [2]}}, "
    "training: {{num_steps: {}, batch_size: 8, precision: float32, ema_decay: 0.5}}}}"
)
ROWS = 8


def add_photograph(folder: Path, number: int, *, caption: str | None = None) -> None:
    """Save an image with structure of several scales, and its caption."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 32), Image.Resampling.BICUBIC).save(folder / f"img_{number:04d}.jpg")
    (folder / f"img_{number:04d}.txt").write_text(caption or f"a photograph of {number}")


class World:
    """A folder of photographs, a store, and an experiment of two stages."""

    def __init__(self, folder: Path) -> None:
        self.photographs, self._folder = folder / "photographs", folder
        self.photographs.mkdir()
        for number in range(5 * ROWS):
            add_photograph(self.photographs, number)
        clip = save_tiny_clip(folder / "clip")
        self.config = folder / "grown.yaml"
        self.config.write_text(f"""
captions: {{fraction: 0.5}}
clip: {{models: [{{kind: folder, path: {clip}}}]}}
download_shards: {{source: {{kind: folder, path: {self.photographs}}}, rows_per_shard: {ROWS}, image_size: 32}}
embed_clip: {{}}
""")

    def plan(self, **changes: Any) -> tuple[Store, dict[str, PlannedStage]]:
        """Plan it."""
        words = [f"{key}={value}" for key, value in changes.items()]
        found = Store(str(self._folder / "store"))
        return found, dict(make_plan(load_config(self.config, words), found).stages)

    def run(self, **changes: Any) -> tuple[dict[str, Artifact], dict[str, StageSummary]]:
        """Run it, without Ray."""
        where, plan = self.plan(**changes)
        made: dict[str, Artifact] = {}
        summaries = {}
        context = replace(make_context(), launch_training=launch_in_process)
        for name, stage in plan.items():
            inputs = filter_inputs({source: made[source] for source in stage.inputs})
            output = where.output(name, stage.fingerprint)
            summaries[name] = run_stage(
                RUNS[name], stage.config, inputs=inputs, output=output, context=context, identity=stage.identity
            )
            made[name] = where.artifact(name, stage.fingerprint)
        return made, summaries


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def keys_of(shards: Artifact) -> dict[str, list[str]]:
    return {name: [one.key for one in read_shard(shard_tar(shards, name))] for name in sorted(ShardRecord.done(shards))}


def test_added_photographs_make_new_shards_and_leave_the_others(world: World) -> None:
    before, _ = world.run()
    again, _ = world.run()
    assert again["download_shards"].fingerprint == before["download_shards"].fingerprint
    (world.photographs / "notes.txt").write_text("of no image")
    (world.photographs / ".DS_Store").write_bytes(b"\0")
    assert all(stage.state == "done" for stage in world.plan()[1].values())

    add_photograph(world.photographs, 7_000)
    (world.photographs / "img_7000.jpg").rename(world.photographs / "a_7000.jpg")  # before all others
    _, plan = world.plan()
    assert plan["download_shards"].reason.startswith("5 of 6 shards reused from artifact ")
    assert plan["download_shards"].reason.endswith(", 1 new, because 1 entries are new or changed")
    assert plan["embed_clip"].reason.startswith("5 of 6 shards reused from artifact ")
    after, summaries = world.run()
    assert summaries["download_shards"].counts["reused_shards"] == 5
    assert summaries["embed_clip"].counts["reused_shards"] == 5
    old, new = keys_of(before["download_shards"]), keys_of(after["download_shards"])
    assert {name: new[name] for name in old} == old
    assert new["00005"] == sample_keys(["a_7000.jpg"])
    for stage in ("download_shards", "embed_clip"):
        files = [folder_digests(Path(one[stage].uri)) for one in (before, after)]
        units = [{name: found for name, found in one.items() if "0000" in name} for one in files]
        assert units[0].items() <= units[1].items()


def test_the_same_bytes_come_of_the_same_division_from_nothing(world: World) -> None:
    world.run()
    add_photograph(world.photographs, 900)
    grown, _ = world.run()
    shutil.rmtree(world.photographs.parent / "store" / "artifacts" / "embed_clip")  # nothing is left to be taken
    anew, _ = world.run()
    assert anew["embed_clip"].fingerprint == grown["embed_clip"].fingerprint
    rows = {name: open_image_rows(grown["embed_clip"], name) for name in shard_rows(grown["embed_clip"])}
    assert all(np.array_equal(open_image_rows(anew["embed_clip"], name), found) for name, found in rows.items())


def test_a_user_over_three_days(world: World) -> None:
    """Day 1: a folder; day 2: 5 % more, 2 % gone, a caption changed, a stray file; day 3: more steps."""
    usable = CaptionsConfig(fraction=0.5)
    first, _ = world.run()
    for number in (900, 901):
        add_photograph(world.photographs, number)
    (world.photographs / "img_0003.jpg").unlink()
    (world.photographs / "img_0003.txt").unlink()
    (world.photographs / "img_0020.txt").write_text("another caption")
    (world.photographs / "stray.txt").write_text("what is this?")
    second, summaries = world.run()
    assert summaries["download_shards"].counts["reused_shards"] == 3
    assert summaries["download_shards"].counts["remade_shards"] == 2  # of 03, and of 20, whose caption is another
    assert summaries["download_shards"].counts["images"] == 41
    growth = GrowthRecord.of(second["download_shards"])
    assert (growth.new_shards, growth.new_entries, growth.lost_entries) == (1, 3, 2)

    before, after = (rows_by_key(one["embed_clip"]) for one in (first, second))
    gone, changed = sample_keys(["img_0003.jpg", "img_0020.jpg"])
    assert before.keys() - after.keys() == {gone}
    assert len(after.keys() - before.keys()) == 2
    same = sorted(before.keys() & after.keys())
    assert all(np.array_equal(before[key], after[key]) for key in same)  # of 03's and 20's neighbours, too
    assert changed in same
    assert captions_of(second["embed_clip"])[changed] == ["another caption"]
    for keys in (sorted(before), sorted(after)):
        chosen = dict(zip(keys, select_captioned(keys, usable), strict=True))
        assert [chosen[key] for key in same] == select_captioned(same, usable).tolist()

    third, _ = world.run()
    assert {name: one.fingerprint for name, one in third.items()} == {n: o.fingerprint for n, o in second.items()}
    assert all(stage.state == "done" for stage in world.plan()[1].values())

    short, long = ({"train_prior": PRIOR.format(steps)} for steps in (4, 8))
    world.run(**short)
    plan = world.plan(**long)[1]["train_prior"]
    assert plan.reason.startswith("continues artifact ")
    assert plan.reason.endswith("from step 4, because only training.num_steps was raised")
    gone_on, summaries = world.run(**long)
    assert summaries["train_prior"].notes["continued_from"].startswith("step 4 of artifact ")
    model = Path(gone_on["train_prior"].path("prior/model.safetensors")).read_bytes()
    shutil.rmtree(world.photographs.parent / "store" / "artifacts" / "train_prior")
    anew, summaries = world.run(**long)
    assert "continued_from" not in summaries["train_prior"].notes
    assert anew["train_prior"].fingerprint == gone_on["train_prior"].fingerprint
    assert Path(anew["train_prior"].path("prior/model.safetensors")).read_bytes() == model


GAUSSIANS = {"filter_samples": "{near_duplicates: {minimum: 0.9999}}", "fit_gaussians": "{num_gaussians: 4}"}


def test_filters_follow_per_shard_and_gaussians_begin_with_the_last_fit(world: World) -> None:
    first, _ = world.run(**GAUSSIANS)
    add_photograph(world.photographs, 900)
    _, plan = world.plan(**GAUSSIANS)
    assert plan["filter_samples"].reason.startswith("5 of 6 shards reused from artifact ")
    last = first["fit_gaussians"].fingerprint
    words = f"starts from the means of artifact {last}, because most of the embeddings are the same"
    assert plan["fit_gaussians"].reason == words
    assert plan["fit_gaussians"].identity["grown_from"] == last  # which the run's record keeps
    second, summaries = world.run(**GAUSSIANS)
    assert summaries["filter_samples"].counts["reused_shards"] == 5
    assert summaries["fit_gaussians"].notes == {"started_from": f"the means of artifact {last}"}
    fits = [GaussianFit.of(one["fit_gaussians"]) for one in (first, second)]
    assert (fits[1].grown_from, fits[1].embeddings_at_first) == (last, fits[0].embeddings)
    assert fits[1].inertias[0] < fits[0].inertias[0] * 1.1  # it begins where the other ended
    assert all(stage.state == "done" for stage in world.plan(**GAUSSIANS)[1].values())

    bytes_of = [read_gaussians(second["fit_gaussians"]).means.tobytes()]
    shutil.rmtree(second["fit_gaussians"].uri)
    again, _ = world.run(**GAUSSIANS)  # of the same settings and the same store come the same bytes
    assert again["fit_gaussians"].fingerprint == second["fit_gaussians"].fingerprint
    bytes_of.append(read_gaussians(again["fit_gaussians"]).means.tobytes())
    assert bytes_of[0] == bytes_of[1]

    anew = world.plan(**GAUSSIANS, **{"fit_gaussians.start": "new"})[1]["fit_gaussians"]
    assert (anew.state, "grown_from" in anew.identity) == ("new", False)
    other = world.plan(**GAUSSIANS | {"fit_gaussians": "{num_gaussians: 5}"})[1]["fit_gaussians"]
    assert "grown_from" not in other.identity
    shutil.rmtree(first["fit_gaussians"].uri)
    shutil.rmtree(second["fit_gaussians"].uri)
    assert "grown_from" not in world.plan(**GAUSSIANS)[1]["fit_gaussians"].identity


def test_means_are_found_anew_when_the_embeddings_have_doubled(world: World) -> None:
    day = {"fit_gaussians": "{num_gaussians: 4}"}
    begins = []
    for number in range(3):
        made, _ = world.run(**day)
        begins.append(GaussianFit.of(made["fit_gaussians"]).grown_from)
        for image in range(24):
            add_photograph(world.photographs, 1000 * (number + 1) + image)
    # 40 images, 64, 88: more than twice as many as those whose sample gave the first means
    assert [begin is not None for begin in begins] == [False, True, False]


def test_a_damaged_shard_is_not_taken_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before, _ = world.run()
    tar = Path(before["download_shards"].uri) / "shards" / "00001.tar"
    content, state = bytearray(tar.read_bytes()), tar.stat()
    content[2000] ^= 1
    with tar.open("r+b") as file:
        file.write(content)
    os.utime(tar, ns=(state.st_atime_ns, state.st_mtime_ns))  # as where a disk loses a bit after a comparison
    add_photograph(world.photographs, 900)
    after, _ = world.run()
    assert "shard 00001 is made again" in caplog.text
    keys = keys_of(after["download_shards"])  # which compares the checksums
    assert keys["00001"] == sample_keys(f"img_{number:04d}.jpg" for number in range(ROWS, 2 * ROWS))


def test_a_list_that_is_appended_to_keeps_its_shards(world: World, tmp_path: Path) -> None:
    addresses = [f"http://127.0.0.1:9/{number}.jpg" for number in range(20)]
    listed = tmp_path / "list.txt"
    source = f"{{kind: url_list, path: {listed}}}"
    few: dict[str, Any] = {"download_shards.source": source, "download_shards.min_yield": 0}
    few |= {"download_shards.retries": 0, "embed_clip": "null", "clip": "null"}
    listed.write_text("\n".join(addresses))
    before, _ = world.run(**few)
    listed.write_text("\n".join([*addresses, "http://127.0.0.1:9/new.jpg"]))
    _, plan = world.plan(**few)
    assert "3 of 4 shards reused from" in plan["download_shards"].reason
    after, summaries = world.run(**few)
    assert summaries["download_shards"].counts["reused_shards"] == 3
    assert len(ShardRecord.done(after["download_shards"])) == len(ShardRecord.done(before["download_shards"])) + 1
    assert "reused" not in world.plan(**few, **{"download_shards.grow": False})[1]["download_shards"].reason


def rows_by_key(embeddings: Artifact) -> dict[str, np.ndarray]:
    shards = list(shard_rows(embeddings))
    return {
        key: row
        for name in shards
        for key, row in zip(load_keys(embeddings, name), open_image_rows(embeddings, name), strict=True)
    }


def captions_of(embeddings: Artifact) -> dict[str, list[str]]:
    shards = list(shard_rows(embeddings))
    return {
        key: found
        for name in shards
        for key, found in zip(load_keys(embeddings, name), load_captions(embeddings, name), strict=True)
    }
