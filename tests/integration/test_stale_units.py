"""Shards that are made again with other images than before: what was made of them is made again, and nothing else."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.machines import Machines
from pipeline.config.schema import RunConfig
from pipeline.executor import GraphRun
from pipeline.plan import PlannedStage, make_plan
from pipeline.results import StageResult
from pipeline.store import Store
from stages.contract.errors import DamagedFile
from stages.contract.events import Event, Log
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, StageContext, StageFunction
from stages.download_shards import stage as download_shards
from stages.embed_clip import stage as embed_clip
from stages.filter_samples import stage as filter_samples
from stages.formats.embeddings.reader import load_image_rows
from stages.formats.shards import shard_tar
from stages.storage.artifact import Artifact
from tests.factories import folder_digests, interrupt_after, make_context, save_tiny_clip
from tests.image_server import ImageServer

ROWS, SHARDS = 2, 3
CHANGED = "00001"
FUNCTIONS: Mapping[str, StageFunction] = {
    "download_shards": download_shards.run,
    "embed_clip": embed_clip.run,
    "filter_samples": filter_samples.run,
}


class Experiment:
    """Images by their addresses, embedded and filtered."""

    def __init__(self, base: Path, server: ImageServer) -> None:
        base.mkdir(parents=True, exist_ok=True)
        (base / "list.txt").write_text("\n".join(server.urls(ROWS * SHARDS)))
        self.server = server
        download = {
            "source": {"kind": "url_list", "path": base / "list.txt"},
            "rows_per_shard": ROWS,
            "encode_format": "png",
            "image_size": 32,
            "allowed_networks": ["127.0.0.1/32"],
        }
        clip = {"models": [{"kind": "folder", "path": save_tiny_clip(base / "clip")}]}
        self.config = RunConfig.model_validate(
            {
                "name": "stale",
                "store": str(base / "store"),
                "download_shards": download,
                "embed_clip": {"clip": clip},
                "filter_samples": {"near_duplicates": {"minimum": 0.99999}},
            }
        )
        self.store = Store(self.config.store)
        self.store.open_for_writing()
        self.warnings: list[str] = []

    def make(self, *names: str, context: StageContext | None = None) -> None:
        """Make these stages in this process."""
        for name in names:
            planned = make_plan(self.config, self.store).stages[name]
            output = self.store.output(name, planned.fingerprint)
            inputs = {source: self.artifact(source) for source in planned.inputs}
            run_stage(FUNCTIONS[name], planned.config, inputs=inputs, output=output, context=context or make_context())

    def run(self) -> dict[str, str]:
        """Run the graph on Ray; return the states of its stages."""
        machines = Machines(num_cpus=2, num_gpus=0, node_cpus=2)
        results = GraphRun(make_plan(self.config, self.store), self.store, machines, self).run()
        return {name: result.state for name, result in results.items()}

    def artifact(self, stage: str) -> Artifact:
        return self.store.artifact(stage, make_plan(self.config, self.store).stages[stage].fingerprint)

    def digests(self) -> dict[str, dict[str, str]]:
        """Return the digests of what was made of the shards, of all units."""
        kinds = ("units/", "img_emb/", "metadata/", "kept/", "removed/", "scores/")
        found = {stage: folder_digests(Path(self.artifact(stage).uri)) for stage in ("embed_clip", "filter_samples")}
        return {
            stage: {name: one for name, one in digests.items() if name.startswith(kinds)}
            for stage, digests in found.items()
        }

    def lose_shard(self) -> None:
        """Set one shard aside, whose images are others by now."""
        self.server.changed = {ROWS, ROWS + 1}
        output = self.store.output("download_shards", self.artifact("download_shards").fingerprint)
        output.set_aside([f"units/{CHANGED}.json", f"shards/{CHANGED}.tar", f"shards/{CHANGED}.parquet"])

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        pass

    def event(self, name: str, event: Event) -> None:
        if isinstance(event, Log) and event.level == "WARNING":
            self.warnings.append(f"{name}: {event.message}")

    def finished(self, result: StageResult) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer.running(ROWS) as running:
        yield running


@pytest.fixture
def experiment(tmp_path: Path, server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setenv("CORGI_CACHE", str(tmp_path / "cache"))
    return Experiment(tmp_path / "experiment", server)


def made_anew(experiment: Experiment, tmp_path: Path) -> Any:
    """Return the digests of the same experiment made of the present images, in another store."""
    other = Experiment(tmp_path / "anew", experiment.server)
    other.make(*FUNCTIONS)
    return other.digests()


def inodes(artifact: Artifact) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in Path(artifact.uri).glob("img_emb/*")}


def test_an_embedding_that_was_interrupted_makes_stale_units_again(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment.make("download_shards")
    with pytest.raises(KeyboardInterrupt):
        experiment.make("embed_clip", context=make_context(map_shards=interrupt_after(2)))
    before = inodes(experiment.artifact("embed_clip"))
    assert set(before) == {"img_emb_00000.npy", f"img_emb_{CHANGED}.npy"}
    experiment.lose_shard()
    experiment.make(*FUNCTIONS)
    assert experiment.digests() == made_anew(experiment, tmp_path)
    again = [
        name for name, inode in inodes(experiment.artifact("embed_clip")).items() if before.get(name, inode) != inode
    ]
    assert again == [f"img_emb_{CHANGED}.npy"]
    assert f"embed_clip: unit {CHANGED} was made of a shard that has been made again with other content" in caplog.text


def test_a_stage_that_streams_sees_it_when_the_shard_is_there_again(experiment: Experiment, tmp_path: Path) -> None:
    experiment.make("download_shards", "embed_clip")
    experiment.lose_shard()
    output = experiment.store.output("embed_clip", experiment.artifact("embed_clip").fingerprint)
    output.unseal()
    states = iter(["running", "running", "running"])

    def state_of(name: str) -> Any:
        state = next(states, "done")
        if state == "done" and not experiment.artifact("download_shards").is_complete:
            experiment.make("download_shards")
        return state

    experiment.make("embed_clip", context=replace(make_context(), input_state=state_of))
    experiment.make("filter_samples")
    assert experiment.digests() == made_anew(experiment, tmp_path)


@pytest.mark.parametrize("has_records", [True, False])
def test_scores_of_earlier_embeddings_are_not_taken(experiment: Experiment, tmp_path: Path, has_records: bool) -> None:
    experiment.make("download_shards", "embed_clip", "filter_samples")
    output = experiment.store.output("filter_samples", experiment.artifact("filter_samples").fingerprint)
    output.unseal()
    if not has_records:
        output.remove("units")
    experiment.lose_shard()
    experiment.make("download_shards")
    experiment.store.output("embed_clip", experiment.artifact("embed_clip").fingerprint).unseal()
    experiment.make("embed_clip", "filter_samples")
    assert experiment.digests() == made_anew(experiment, tmp_path)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("is_known_before", [False, True])
def test_a_run_opens_finished_stages_of_earlier_content_again(
    experiment: Experiment, tmp_path: Path, is_known_before: bool
) -> None:
    experiment.make(*FUNCTIONS)
    first = load_image_rows(experiment.artifact("embed_clip"), CHANGED)
    if is_known_before:  # the shard was made again by a run that was killed then, or that does not embed
        experiment.lose_shard()
        experiment.make("download_shards")
        expected = {"download_shards": "reused", "embed_clip": "done", "filter_samples": "done"}
    else:
        experiment.server.changed = {ROWS, ROWS + 1}
        shutil.rmtree(experiment.artifact("download_shards").uri)
        expected = dict.fromkeys(FUNCTIONS, "done")
    assert experiment.run() == expected
    assert experiment.digests() == made_anew(experiment, tmp_path)
    assert not (load_image_rows(experiment.artifact("embed_clip"), CHANGED) == first).all()
    assert [line for line in experiment.warnings if "was made of earlier content of download_shards" in line]
    assert {stage.state for stage in make_plan(experiment.config, experiment.store).stages.values()} == {"done"}


def test_who_reads_a_file_that_was_set_aside_waits_for_it_to_be_made_again(experiment: Experiment) -> None:
    experiment.make("download_shards")
    experiment.lose_shard()
    with pytest.raises(DamagedFile) as caught:
        shard_tar(experiment.artifact("download_shards"), CHANGED)
    assert (caught.value.stage, caught.value.unit) == ("download_shards", CHANGED)
