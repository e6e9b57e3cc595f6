"""A run that meets damage in what earlier stages made, or a process that stands still: it mends that, and goes on."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.machines import Machines
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.executor import GraphRun
from pipeline.leases import Leases, LeaseTimes
from pipeline.mending import Mending
from pipeline.plan import PlannedStage, make_plan
from pipeline.results import StageResult
from pipeline.store import Store
from stages.contract.errors import DamagedFile
from stages.contract.events import Event, Log
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, StageFunction
from stages.download_shards import stage as download_shards
from stages.embed_clip import stage as embed_clip
from stages.formats.shards import shard_tar
from stages.storage.artifact import Artifact
from tests.factories import folder_digests, make_context, save_image, save_tiny_clip
from tests.live import command_of, descendants
from tests.tiny_captioners import save_tiny_captioner

SHARDS = 3
DATA_STAGES = ("download_shards", "embed_clip")


class Experiment:
    """A download and its embedding in one store."""

    def __init__(self, base: Path) -> None:
        for index in range(2 * SHARDS):
            save_image(base / "images" / f"{index}.png", color=(40 * index, 10, 10))
        clip = {"models": [{"kind": "folder", "path": save_tiny_clip(base / "clip")}]}
        source = {"kind": "folder", "path": base / "images"}
        download = {"source": source, "rows_per_shard": 2, "image_size": 32, "encode_format": "png"}
        config = {"name": "mending", "store": str(base / "store"), "download_shards": download}
        self.config = RunConfig.model_validate(config | {"embed_clip": {"clip": clip}})
        self.store = Store(self.config.store)
        self.store.open_for_writing()
        self.events: list[tuple[str, Event]] = []
        self.stopped: list[psutil.Process] = []
        self.results: Mapping[str, StageResult] = {}
        self.stops: str | None = None
        """The stage whose process is to be stopped at its first event."""

    def with_sections(self, **sections: Any) -> None:
        """Add further stages."""
        self.config = RunConfig.model_validate(self.config.model_dump(mode="json", exclude_unset=True) | sections)

    def make(self) -> None:
        """Make all that is not there in this process, in less time than on Ray."""
        functions: dict[str, StageFunction] = {"download_shards": download_shards.run, "embed_clip": embed_clip.run}
        for name, planned in make_plan(self.config, self.store).stages.items():
            output = self.store.output(name, planned.fingerprint)
            inputs = {source: self.artifact(source) for source in planned.inputs}
            run_stage(functions[name], planned.config, inputs=inputs, output=output, context=make_context())

    def graph(self) -> GraphRun:
        """Plan what is there now; made on Ray."""
        machines = Machines(num_cpus=2, num_gpus=0, node_cpus=2)
        return GraphRun(make_plan(self.config, self.store), self.store, machines, self)

    def run(self) -> dict[str, str]:
        """Run the graph on Ray; return the states of its stages."""
        self.events.clear()
        self.results = self.graph().run()
        return {name: result.state for name, result in self.results.items()}

    def artifact(self, stage: str) -> Artifact:
        return self.store.artifact(stage, make_plan(self.config, self.store).stages[stage].fingerprint)

    def folder(self, stage: str) -> Path:
        return Path(self.artifact(stage).uri)

    def digests(self) -> dict[str, dict[str, str]]:
        """Return the digests of all files but those that were set aside."""
        found = {stage: folder_digests(self.folder(stage)) for stage in DATA_STAGES}
        return {
            stage: {name: one for name, one in digests.items() if not name.startswith("damaged/")}
            for stage, digests in found.items()
        }

    @property
    def warnings(self) -> list[str]:
        return [event.message for _, event in self.events if isinstance(event, Log) and event.level == "WARNING"]

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        pass

    def event(self, name: str, event: Event) -> None:
        self.events.append((name, event))
        if name == self.stops and not self.stopped:
            for one in descendants():
                if "".join(command_of(one)).startswith(f"ray::{name}"):
                    one.suspend()
                    self.stopped.append(one)

    def finished(self, result: StageResult) -> None:
        pass


def wait_until_made_again(graph: GraphRun, damage: DamagedFile) -> bool:
    while (made := graph._make_again(damage)) is None:
        time.sleep(0.01)
    return made


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("local_ray")
def test_a_run_makes_damaged_units_of_finished_stages_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORGI_CACHE", str(tmp_path / "cache"))
    experiment = Experiment(tmp_path)
    experiment.make()
    whole, shards = experiment.digests(), experiment.folder("download_shards")

    shutil.rmtree(experiment.folder("embed_clip"))  # to be made of what is damaged now
    flip(shards / "shards/00001.tar")
    flip(shards / "manifest.json")
    assert experiment.run() == {"download_shards": "done", "embed_clip": "done"}
    assert experiment.digests() == whole
    assert (shards / "damaged/shards/00001.tar").is_file()
    assert any("shards/00001.tar: found other bytes: it is made again" in line for line in experiment.warnings)
    assert {stage.state for stage in make_plan(experiment.config, experiment.store).stages.values()} == {"done"}


@pytest.mark.thorough
@pytest.mark.usefixtures("local_ray")
def test_who_streams_from_a_stage_that_waits_for_damage_makes_room_for_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download wants all CPUs, the embedding holds one and waits for captions that wait for the download."""
    monkeypatch.setenv("CORGI_CACHE", str(tmp_path / "cache"))
    experiment = Experiment(tmp_path)
    experiment.make()
    shutil.rmtree(experiment.folder("embed_clip"))
    model = {"path": str(save_tiny_captioner(tmp_path / "blip"))}
    experiment.with_sections(caption_images={"model": model, "max_new_tokens": 2})
    shards = experiment.folder("download_shards")
    whole = folder_digests(shards)
    flip(shards / "shards/00001.tar")
    states = experiment.run()
    errors = {name: result.error for name, result in experiment.results.items()}
    assert states == {"download_shards": "done", "caption_images": "done", "embed_clip": "done"}, errors
    found = folder_digests(shards)
    assert {name: one for name, one in found.items() if not name.startswith("damaged/")} == whole
    assert [line for line in experiment.warnings if "is stopped until caption_images" in line]
    assert experiment.artifact("embed_clip").unit_names() == experiment.artifact("caption_images").unit_names()


@pytest.mark.thorough
@pytest.mark.usefixtures("local_ray")
def test_what_another_driver_makes_again_costs_the_stage_that_met_it_alone(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.make()
    shutil.rmtree(experiment.folder("embed_clip"))
    flip(experiment.folder("download_shards") / "shards/00001.tar")
    artifact, times = experiment.artifact("download_shards"), LeaseTimes(timeout=1.0)
    other = Leases(experiment.store.uri, tmp_path / "other", run="other-1", times=times, report=lambda text: None)
    own = experiment.store.leasing("mending-1", [experiment.artifact("embed_clip")], times, lambda text: None)
    with other.holding([f"{artifact.stage}-{artifact.fingerprint}"]), own:
        assert experiment.run() == {"download_shards": "reused", "embed_clip": "failed"}
    error = experiment.results["embed_clip"].error
    assert "shards/00001.tar: found other bytes" in error
    assert "could not be made again by this run" in error
    assert f"{artifact.stage}-{artifact.fingerprint}: is being made by corgi on" in error
    assert artifact.is_complete
    assert experiment.run() == {"download_shards": "done", "embed_clip": "done"}


@pytest.mark.usefixtures("local_ray")
def test_a_driver_goes_on_while_it_reads_the_lease_of_another(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.make()
    artifact, times = experiment.artifact("download_shards"), LeaseTimes(timeout=1.0)
    damage = artifact.damaged_file("shards/00001.tar", "units/00001.json", "other bytes")
    flip(Path(artifact.path(damage.name)))
    stages = make_plan(experiment.config, experiment.store).stages
    graph = experiment.graph()
    graph._reuse(stages["download_shards"])
    assert graph._missing(stages["embed_clip"]) == []
    other = Leases(experiment.store.uri, tmp_path / "other", run="other-1", times=times, report=lambda text: None)
    own = experiment.store.leasing("mending-1", [experiment.artifact("embed_clip")], times, lambda text: None)
    with other.holding([f"{artifact.stage}-{artifact.fingerprint}"]), own, graph._mending:
        for _ in range(2):  # the second one meets the same lease again
            assert graph._make_again(damage) is None
            assert graph._missing(stages["embed_clip"]) == ["download_shards"], "which is not started meanwhile"
            with pytest.raises(UsageError, match="is being made by corgi on"):
                wait_until_made_again(graph, damage)
            assert graph._missing(stages["embed_clip"]) == []
    assert artifact.is_complete


@pytest.mark.usefixtures("local_ray")
def test_damage_that_several_stages_meet_before_its_maker_has_room_counts_once(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.make()
    shards = experiment.artifact("download_shards")
    names = {unit: f"shards/{unit}.tar" for unit in ("00001", "00002")}
    for name in names.values():
        flip(Path(shards.path(name)))
    graph = experiment.graph()
    with graph._mending:
        for unit in ("00001", "00002", "00001", "00001", "00002", "00002"):
            damage = shards.damaged_file(names[unit], f"units/{unit}.json", "other bytes")
            assert wait_until_made_again(graph, damage)
    assert shards.unit_names() == ["00000"]
    again = [line for line in experiment.warnings if line.endswith("it is made again")]
    assert len(again) == 2


@pytest.mark.usefixtures("local_ray")
def test_a_stage_whose_process_stands_still_is_ended_and_started_again(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.make()
    patience = {"heartbeat_timeout": 2.0, "stage_timeout": 8.0}  # which its workers would have too, had it any
    experiment.with_sections(fit_gaussians={"num_gaussians": 2, "resources": patience})
    experiment.stops = "fit_gaussians"
    states = experiment.run()
    assert states == {"download_shards": "reused", "embed_clip": "reused", "fit_gaussians": "done"}
    (stopped,) = experiment.stopped
    assert not stopped.is_running()
    where = f"its process ({stopped.pid}, node"  # on a busy machine, the next one may be silent for a moment, too
    said = [line.partition(" for ")[0].partition(")")[2] for line in experiment.warnings if line.startswith(where)]
    assert said == [" gave no sign of life", " stands still"]
    assert len([line for line in experiment.warnings if line.startswith("its process was lost")]) == 1


def test_damage_that_comes_back_and_that_of_others_is_not_mended(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    plan = make_plan(experiment.config, experiment.store)
    output = experiment.store.output("download_shards", plan.stages["download_shards"].fingerprint)
    with Mending(plan, experiment.store) as mending:
        for is_set_aside in (True, True, False):
            with output.collecting():
                output.write_bytes("shards/00000.tar", b"content")
                output.finish_unit("00000", {})
            flip(Path(output.path("shards/00000.tar")))
            with pytest.raises(DamagedFile) as caught:
                shard_tar(Artifact(output.uri, output.stage, output.fingerprint), "00000")
            assert mending.set_aside(caught.value) == is_set_aside
            assert output.exists("units/00000.json") != is_set_aside
        other = experiment.store.artifact("download_shards", "another")
        assert not mending.set_aside(other.damaged_file("shards/00000.tar", "units/00000.json", "no file"))
