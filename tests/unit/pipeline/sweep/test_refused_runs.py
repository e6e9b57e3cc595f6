"""Runs of a sweep that cannot be run, or end in an error: what is said, and that the others go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError, Unreachable
from pipeline.console import Terminal
from pipeline.errors import Interrupted, PipelineError, Superseded, UsageError
from pipeline.experiment import Experiment
from pipeline.record import RunRecord
from pipeline.sweep.config import load_sweep
from pipeline.sweep.run import check_runs, open_sweep, result_of, result_of_run
from stages.contract.errors import InputFault, LeaseLost
from stages.storage.artifact import Output
from tests.factories import make_record
from tests.unit.pipeline.sweep.sweeps import BASE, write_sweep


def test_a_variant_that_is_no_experiment_is_reported_before_anything_runs(tmp_path: Path) -> None:
    groups = {"shifted": {"grid": {"train_prior.kapa": [1.0]}}}
    with pytest.raises(UsageError, match="kapa"):
        open_sweep(load_sweep(write_sweep(tmp_path, groups=groups)), [f"store={tmp_path / 'store'}"])


def test_all_that_is_refused_is_said_before_anything_runs(tmp_path: Path) -> None:
    """Of seven runs six are refused, five of them for one reason."""
    for name, header in (("good", "Prompt"), ("other", "Text"), ("wrong", "Words")):
        (tmp_path / f"{name}.csv").write_text(f"{header}\na star\n")
    files = ["good", "other", *["wrong"] * 5]
    prompts = [{"kind": "file", "path": str(tmp_path / f"{name}.csv"), "limit": n} for n, name in enumerate(files, 1)]
    groups = {"prompts": {"grid": {"generate.prompts": prompts}}}
    runs = open_sweep(load_sweep(write_sweep(tmp_path, groups=groups, repeat=None)), [f"store={tmp_path / 'store'}"])
    check_runs(runs[:1])
    with pytest.raises(UsageError, match="6 of 7 runs cannot be run, and nothing was started") as found:
        check_runs(runs)
    _, first, second = str(found.value).splitlines()
    assert "other.csv" in first.rpartition("}: ")[2]
    assert "wrong.csv" in second.rpartition("more: ")[2]
    assert second.count("prompts, prompts {") == 3
    assert "; and 2 more: " in second


def test_all_variants_that_are_no_experiments_are_named(tmp_path: Path) -> None:
    groups = {"shifted": {"grid": {"train_prior.kappa": [1.0, "one", "two", 2.0]}}}
    with pytest.raises(UsageError, match="2 of 4 runs cannot be run") as found:
        open_sweep(load_sweep(write_sweep(tmp_path, groups=groups, repeat=None)), [f"store={tmp_path / 'store'}"])
    assert "kappa one: " in str(found.value)
    assert "kappa two: " in str(found.value)


def test_what_an_earlier_run_of_the_sweep_makes_may_be_taken_by_a_later_one(tmp_path: Path) -> None:
    words = {"train_decoder": None, "generate": None, "evaluate": None}
    taking = {"train_prior": None, "reuse": {"train_prior": {"config": str(BASE)}}, **words}
    groups = {"making": {"set": words}, "taking": {"set": taking}}
    runs = open_sweep(load_sweep(write_sweep(tmp_path, groups=groups, repeat=None)), [f"store={tmp_path / 'store'}"])
    check_runs(runs)
    with pytest.raises(UsageError, match=r"taking: reuse\.train_prior"):
        check_runs(runs[::-1])


@pytest.mark.parametrize("error", [UsageError, InputFault, PipelineError])
def test_an_error_of_one_run_is_its_own(tmp_path: Path, error: Callable[[str], Exception]) -> None:
    runs = open_sweep(load_sweep(write_sweep(tmp_path)), [f"store={tmp_path / 'store'}"])[:3]

    def run_one(experiment: Experiment, _: Any) -> RunRecord:
        if experiment.plan.run == runs[1].experiment.plan.run:
            raise error("tracking.uri: refused")
        return make_record(experiment.plan.run, metrics={"train_prior/cosine_true": 0.5})

    results = [result_of_run(run, {}, Terminal(stderr=True), run_one) for run in runs]
    assert [(one.record.status, one.is_whole, one.error) for one in results] == [
        ("done", True, ""),
        ("failed", False, "tracking.uri: refused"),
        ("done", True, ""),
    ]
    assert results[1].record.run == runs[1].experiment.plan.run


@pytest.mark.parametrize("error", [Interrupted, Superseded, LeaseLost, Unreachable])
def test_an_end_of_the_whole_sweep_is_raised(tmp_path: Path, error: Callable[[str], Exception]) -> None:
    run = open_sweep(load_sweep(write_sweep(tmp_path)), [f"store={tmp_path / 'store'}"])[0]

    def run_one(*_: Any) -> RunRecord:
        raise error("the end")

    with pytest.raises((PipelineError, LeaseLost, ClusterError), match="the end"):
        result_of_run(run, {}, Terminal(stderr=True), run_one)


def test_a_document_that_cannot_be_read_costs_its_numbers_alone(tmp_path: Path) -> None:
    """One stage's document is missing, another stage is not part of the run, and a third one's is there."""
    run = open_sweep(load_sweep(write_sweep(tmp_path)), [f"store={tmp_path / 'store'}"])[0]
    there, without = (Output(str(tmp_path / name), name, "x") for name in ("fit_gaussians", "train_prior"))
    there.write_json("fit.json", {"spread": 0.5})
    record = make_record(metrics={"a": 1.0}, artifacts={one.stage: one.uri for one in (without, there)})
    documents = {"train_prior": "validation.json", "evaluate": "metrics.json", "fit_gaussians": "fit.json"}
    result = result_of(run, record, documents)
    assert result.figures == {"a": 1.0, "fit_gaussians/spread": 0.5}
    assert "validation.json" in result.error
    assert "metrics.json" not in result.error
    assert not result.is_whole
