"""The leases of an experiment: of all that is to be made when they are held, not when it was first planned."""

import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.config.loading import load_config
from pipeline.experiment import Experiment
from pipeline.leases import Leases, LeaseTimes
from stages.storage.artifact import COMPLETE, Output

EXPECTED_WAIT = "is being made by"


def open_experiment(folder: Path, *words: str) -> Experiment:
    config = load_config("configs/smoke.yaml", [f"store={folder}", "storage.lease_timeout=1", *words])
    return Experiment.open(config, "smoke.yaml")


def finish(experiment: Experiment, *stages: str) -> None:
    for name in stages:
        output = output_of(experiment, name)
        output.finish_unit("00000", {})
        output.write_bytes(COMPLETE, b"")


def output_of(experiment: Experiment, stage: str) -> Output:
    return experiment.store.output(stage, experiment.plan.stages[stage].fingerprint)


def while_waiting(
    experiment: Experiment, folder: Path, stage: str, act: Callable[[], None]
) -> tuple[set[str], list[str]]:
    """Hold the lease of a stage as another machine does; when this one waits for it, ``act`` and let it go."""
    other = Leases(
        experiment.store.uri, folder / "other", run="other", times=LeaseTimes(timeout=1.0), report=lambda text: None
    )
    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        if EXPECTED_WAIT in text and not acted.is_set():
            acted.set()
            act()
            other.release(name)

    acted, name = threading.Event(), f"{stage}-{experiment.plan.stages[stage].fingerprint}"
    with other.holding([name]), experiment.leased(report) as leased:
        assert acted.is_set()
        fences = {one: output_of(leased, one).fence for one in leased.plan.stages}
        undone = {artifact.stage for artifact in leased.undone()}
    assert {one for one, fence in fences.items() if fence is not None} == undone
    return undone, said


def test_what_was_set_aside_while_another_driver_was_waited_for_is_made_under_a_lease(tmp_path: Path) -> None:
    experiment = open_experiment(tmp_path / "store")
    finish(experiment, "download_shards", "embed_clip")
    experiment = open_experiment(tmp_path / "store")
    shards = output_of(experiment, "download_shards")
    undone, said = while_waiting(experiment, tmp_path, "fit_gaussians", lambda: shards.set_aside(["units/00000.json"]))
    assert {"download_shards", "fit_gaussians"} <= undone
    assert "embed_clip" not in undone
    assert any(line.startswith("download_shards: damage was set aside meanwhile") for line in said)


def test_what_another_driver_has_made_is_taken_and_its_lease_released(tmp_path: Path) -> None:
    experiment = open_experiment(tmp_path / "store")
    undone, said = while_waiting(experiment, tmp_path, "download_shards", lambda: finish(experiment, "download_shards"))
    assert undone == experiment.plan.stages.keys() - {"download_shards"}
    assert not any("set aside" in line for line in said)
