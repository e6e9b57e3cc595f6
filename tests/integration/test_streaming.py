"""A stage that follows its source shard by shard: what it stores, and what happens when one of the two fails."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.machines import Machines
from cluster.mapping import MakeWorker, Mapper, WorkerResources, map_in_process
from pipeline.config.schema import RunConfig
from pipeline.executor import GraphRun
from pipeline.plan import Plan, PlannedStage, make_plan
from pipeline.results import StageResult
from pipeline.store import Store
from stages.contract.errors import InputLost, YieldTooLow
from stages.contract.events import Event, Progress
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, InputState, StageContext, StageFunction
from stages.download_shards import stage as download_shards
from stages.embed_clip import stage as embed_clip
from stages.formats.clips import ClipIdentity, Clips, write_clips
from stages.storage.artifact import COMPLETE, Artifact
from tests.factories import folder_digests, make_context, save_tiny_clip
from tests.image_server import ImageServer
from tests.live import command_of, descendants

SHARDS, ROWS = 3, 4
TWO_CPUS = Machines(num_cpus=2, num_gpus=0, node_cpus=2)
PATIENCE = 250.0  # seconds for what comes within one or two, and on Ray within twenty, where nothing else runs


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with ImageServer.running(ROWS) as running:
        yield running


@pytest.fixture(scope="module")
def make_config(server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], RunConfig]:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "list.txt").write_text("\n".join(server.urls(SHARDS * ROWS)))
    clip = save_tiny_clip(folder / "clip")

    def make(store: Path) -> RunConfig:
        download = {
            "source": {"kind": "url_list", "path": folder / "list.txt"},
            "rows_per_shard": ROWS,
            "min_yield": 0.9,
            "retries": 0,
            "timeout": 2 * PATIENCE,
            "max_seconds": 2 * PATIENCE,
            "encode_format": "png",
            "image_size": 32,
            "allowed_networks": ["127.0.0.1/32"],
        }
        models = {"models": [{"kind": "folder", "path": clip}]}
        return RunConfig(name="streaming", store=str(store), download_shards=download, embed_clip={"clip": models})

    return make


class Experiment:
    """A download and the embedding that may follow it, in one store."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.store = config, Store(config.store)
        self.store.open_for_writing()
        self.events: dict[str, list[Event]] = {"download_shards": [], "embed_clip": []}
        self.results: dict[str, StageResult] = {}

    @property
    def plan(self) -> Plan:
        return make_plan(self.config, self.store)

    def artifact(self, stage: str) -> Artifact:
        return self.store.artifact(stage, self.plan.stages[stage].fingerprint)

    def units(self, stage: str) -> set[str]:
        return {Path(name).stem for name in self.artifact(stage).glob("units/*.json")}

    def digests(self, stage: str) -> dict[str, str]:
        return folder_digests(Path(self.artifact(stage).uri))

    def run(self, stage: str, context: StageContext) -> None:
        """Run one stage in this process."""
        planned = self.plan.stages[stage]
        functions: dict[str, StageFunction] = {"download_shards": download_shards.run, "embed_clip": embed_clip.run}
        inputs = {name: self.artifact(name) for name in planned.inputs}
        output = self.store.output(stage, planned.fingerprint)
        run_stage(functions[stage], planned.config, inputs=inputs, output=output, context=context)

    def run_graph(self) -> dict[str, StageResult]:
        """Run the stages on Ray, as a run does."""
        return GraphRun(self.plan, self.store, TWO_CPUS, self, restarts=1).run()

    # What the graph tells
    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        pass

    def event(self, name: str, event: Event) -> None:
        self.events[name].append(event)

    def finished(self, result: StageResult) -> None:
        self.results[result.name] = result


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def backwards(make_worker: MakeWorker, items: Any, resources: WorkerResources) -> Iterator[Any]:
    return map_in_process(make_worker, list(reversed(items)), resources)


@contextlib.contextmanager
def downloading(experiment: Experiment, map_shards: Mapper = map_in_process) -> Iterator[Callable[[str], InputState]]:
    """Download in a thread; yield what tells how far it is, and raise at the end what it raised."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            experiment.run("download_shards", make_context(map_shards=map_shards))
        except Exception as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda name: "running" if thread.is_alive() else "failed" if errors else "done"
    finally:
        thread.join()
    if errors:
        raise errors[0]


def embed(experiment: Experiment, input_state: Callable[[str], InputState], events: list[Event] | None = None) -> None:
    context = make_context(events)
    context = StageContext(context.emit, context.map_shards, context.launch_training, input_state=input_state)
    experiment.run("embed_clip", context)


@pytest.fixture(scope="module")
def undisturbed(
    make_config: Callable[[Path], RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """The digests of both artifacts, made one after the other."""
    experiment = Experiment(make_config(tmp_path_factory.mktemp("undisturbed")))
    for stage in experiment.events:
        experiment.run(stage, make_context())
    return {stage: experiment.digests(stage) for stage in experiment.events}


def assert_same(experiment: Experiment, undisturbed: dict[str, dict[str, str]]) -> None:
    assert {stage: experiment.digests(stage) for stage in undisturbed} == undisturbed


@pytest.fixture
def experiment(make_config: Callable[[Path], RunConfig], server: ImageServer, tmp_path: Path) -> Iterator[Experiment]:
    yield Experiment(make_config(tmp_path / "store"))
    server.before = lambda shard: True


@pytest.mark.parametrize(("mapper", "order"), [(map_in_process, [0, 1, 2]), (backwards, [2, 1, 0])])
def test_order_and_timing_change_no_stored_byte(
    mapper: Mapper, order: Sequence[int], experiment: Experiment, server: ImageServer, undisturbed: Any
) -> None:
    """Each shard is downloaded only after the one before it, in whatever order, is embedded."""
    server.before = lambda shard: wait_until(lambda: len(experiment.units("embed_clip")) >= order.index(shard))
    events: list[Event] = []
    with downloading(experiment, mapper) as state:
        embed(experiment, state, events)
    assert [event.done for event in events if isinstance(event, Progress)] == [0, 1, 2, 3]
    assert events[1] == Progress(1, SHARDS, "shards", items=ROWS, note="streaming from download_shards")
    assert_same(experiment, undisturbed)


def test_a_source_that_fails_late_leaves_what_was_embedded_and_a_second_run_ends_alike(
    experiment: Experiment, server: ImageServer, undisturbed: Any
) -> None:
    server.before = lambda shard: shard < 2 or not wait_until(lambda: len(experiment.units("embed_clip")) == 2)
    with pytest.raises(YieldTooLow), downloading(experiment) as state:  # noqa: SIM117  one after the other
        with pytest.raises(InputLost, match="download_shards: failed while its shards were streamed"):
            embed(experiment, state)
    assert experiment.units("embed_clip") == {"00000", "00001"}
    assert not experiment.artifact("embed_clip").exists(COMPLETE)
    server.before = lambda shard: True
    with downloading(experiment) as state:
        embed(experiment, state)
    assert_same(experiment, undisturbed)


def test_shards_that_may_be_made_anew_are_not_taken(experiment: Experiment, server: ImageServer) -> None:
    """The first shard yields too little, so that a second run makes it anew; the others are final."""
    server.before = lambda shard: (
        shard != 0 and (shard != 2 or wait_until(lambda: bool(experiment.units("embed_clip"))))
    )
    with pytest.raises(YieldTooLow), downloading(experiment) as state:  # noqa: SIM117
        with pytest.raises(InputLost):
            embed(experiment, state)
    assert "00000" not in experiment.units("download_shards") | experiment.units("embed_clip")
    assert "00001" in experiment.units("embed_clip")


def test_a_source_that_yields_nothing_leaves_nothing(experiment: Experiment, server: ImageServer) -> None:
    server.before = lambda shard: False
    with pytest.raises(YieldTooLow), downloading(experiment) as state:  # noqa: SIM117
        with pytest.raises(InputLost):
            embed(experiment, state)
    assert not experiment.units("embed_clip")
    assert not experiment.artifact("embed_clip").exists(COMPLETE)


# ---- on Ray


@pytest.mark.usefixtures("local_ray")
def test_both_run_at_once_and_the_table_shows_it(experiment: Experiment, server: ImageServer, undisturbed: Any) -> None:
    """The last shard comes only when the first one is embedded: this ends only if the two stages run side by side."""
    server.before = lambda shard: shard < 2 or wait_until(lambda: "00000" in experiment.units("embed_clip"))
    results = experiment.run_graph()
    assert {name: result.state for name, result in results.items()} == {"download_shards": "done", "embed_clip": "done"}
    assert (results["download_shards"].upstream, results["embed_clip"].upstream) == ((), ("download_shards",))
    assert_same(experiment, undisturbed)


@pytest.mark.usefixtures("local_ray")
def test_a_source_that_fails_stops_the_one_that_follows(experiment: Experiment, server: ImageServer) -> None:
    server.before = lambda shard: shard < 2 or not wait_until(lambda: len(experiment.units("embed_clip")) == 2)
    results = experiment.run_graph()
    assert {name: result.state for name, result in results.items()} == {
        "download_shards": "failed", "embed_clip": "blocked",
    }  # fmt: skip
    assert "8 of 12 entries" in results["download_shards"].error
    assert "download_shards: failed while its shards were streamed from it" in results["embed_clip"].error
    assert experiment.units("embed_clip") == {"00000", "00001"}
    assert not experiment.artifact("embed_clip").exists(COMPLETE)


@pytest.mark.usefixtures("local_ray")
def test_one_that_fails_does_not_stop_its_source(experiment: Experiment, server: ImageServer) -> None:
    plan = experiment.plan
    output = experiment.store.output("embed_clip", plan.stages["embed_clip"].fingerprint)
    other = ClipIdentity(reference="clip", digest="of other weights", embed_dim=16, image_size=32)
    write_clips(output, Clips((other,), "the test"))
    server.before = lambda shard: shard < 2 or wait_until(lambda: "embed_clip" in experiment.results)
    results = experiment.run_graph()
    assert {name: result.state for name, result in results.items()} == {
        "download_shards": "done", "embed_clip": "failed",
    }  # fmt: skip
    assert results["embed_clip"].error.startswith("embed_clip:")  # the stage's own words, from inside a worker
    assert "the weights behind the name have changed" in results["embed_clip"].error
    assert experiment.artifact("download_shards").exists(COMPLETE)


@pytest.mark.thorough
@pytest.mark.usefixtures("local_ray")
def test_a_stage_may_lose_its_process_again_once_it_has_got_further(
    experiment: Experiment, server: ImageServer, undisturbed: Any
) -> None:
    """It is started again once without getting further; here it is killed twice, each time with one more shard."""
    killed: dict[int, set[int]] = {}
    turn = threading.Lock()  # the images of a shard are asked for by several threads

    def its_processes() -> list[psutil.Process]:
        return [one for one in descendants() if "".join(command_of(one)[:1]) == "ray::download_shards"]

    def kill_its_process(shard: int) -> bool:
        if shard and wait_until(lambda: len(experiment.units("download_shards")) >= shard):
            with turn:
                if shard not in killed:
                    found = its_processes()
                    killed[shard] = {one.pid for one in found}
                    for one in found:
                        one.kill()
            if shard == 1:  # a shard that was finished before the loss is noticed is none that was finished after it
                wait_until(lambda: any(one.pid not in killed[1] for one in its_processes()))
        return True

    server.before = kill_its_process
    results = experiment.run_graph()
    assert all(killed[shard] for shard in (1, 2))
    assert {name: result.state for name, result in results.items()} == {"download_shards": "done", "embed_clip": "done"}
    assert_same(experiment, undisturbed)
