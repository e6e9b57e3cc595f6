"""Where the weights of the best validation are kept, everything in the artifact is of these weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.contract.findings import Findings, InspectionContext, Table
from stages.formats.checkpoints import BestRecord, TrainedRecord, checkpoint_steps
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact, Output
from stages.storage.folder import COMPLETE
from stages.train_prior import stage as train_prior
from stages.train_prior.inspect import inspect
from tests.unit.stages.train_prior.pieces import context, inputs_for, prior_config, train_cut_at

TRAINING = {"num_steps": 8, "batch_size": 16, "log_interval": 1, "precision": "float32", "learning_rate": 0.01,
            "checkpoint_interval": 2, "validation_interval": 3, "schedule": "constant"}  # fmt: skip
FIRST = {"metric": "cosine_true", "mode": "lowest"}  # the one that has learned least


def config(kind: str = "shifted", *, best: Mapping[str, str] | None = FIRST, **changes: Any) -> Any:
    section = {name: changes.pop(name) for name in ("num_steps",) if name in changes}
    return prior_config(kind, training=TRAINING | section | {"best": best}, **changes)


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_prior", folder.name)


def require_of_one_step(output: Output, step: int) -> None:
    """Check that metrics, validation, tables and the pairs of the largest loss are those of a step."""
    metrics, evaluated = TrainedRecord.of(output).metrics, output.read_json("validation.json")
    worst = WorstSamples.of(output)
    assert metrics["best_step"] == step
    named = {name: evaluated[name] for name in ("by_steps", "by_time", "reference")}
    assert named == evaluated[f"validation_{step}"]
    for labels in (named["by_steps"], named["by_time"]):
        for label, report in labels.items():
            assert {f"{name}/{label}": value for name, value in report.items()}.items() <= metrics.items()
    assert {f"reference/{name}": value for name, value in named["reference"].items()}.items() <= metrics.items()
    assert worst.step == step
    assert worst.mean_loss == pytest.approx(1 - metrics["cosine_true"])
    (Path(output.uri) / COMPLETE).touch()
    findings = Findings("train_prior", "p0", output.uri, "done")
    inspect(Artifact(output.uri, "train_prior", "p0"), findings, InspectionContext(lambda stage: None, 16))
    shown = next(table for table in findings.blocks if isinstance(table, Table))
    (row,) = (row for row in shown.rows if row[0] == "cosine_true")
    assert row[-2] == f"{metrics['cosine_true']:.4g}"


@pytest.mark.parametrize(("kind", "mode"), [("shifted", "lowest"), ("projection", "highest")])
def test_everything_is_of_the_weights_that_are_kept(tmp_path: Path, kind: str, mode: str) -> None:
    inputs, section = inputs_for(kind, tmp_path), config(kind, best={"metric": "cosine_true", "mode": mode})
    train_prior.run(section, inputs, output_of(tmp_path / "whole"), context())
    require_of_one_step(output_of(tmp_path / "whole"), 3)
    evaluated = output_of(tmp_path / "whole").read_json("validation.json")
    assert {name for name in evaluated if name.startswith("validation_")} == {f"validation_{n}" for n in (3, 6, 8)}
    assert evaluated["validation_8"]["by_steps"] != evaluated["by_steps"]
    for step in (5, 8):  # the best validation was before, or the last one was to come
        train_cut_at(step, section, inputs, output_of(tmp_path / f"cut{step}"))
        require_of_one_step(output_of(tmp_path / f"cut{step}"), 3)
        assert output_of(tmp_path / f"cut{step}").read_json("validation.json") == evaluated


def test_the_last_weights_may_be_the_best(tmp_path: Path) -> None:
    highest = config(best={"metric": "cosine_true", "mode": "highest"})
    train_prior.run(highest, inputs_for("shifted", tmp_path), output_of(tmp_path / "p"), context())
    require_of_one_step(output_of(tmp_path / "p"), 8)


def test_the_best_weights_of_another_training_are_evaluated_again(tmp_path: Path) -> None:
    """A longer training goes on from the checkpoint of a shorter one, whose best weights it takes, too."""
    inputs, short, long = inputs_for("shifted", tmp_path), output_of(tmp_path / "short"), output_of(tmp_path / "long")
    train_prior.run(config(num_steps=4), inputs, short, context())
    assert BestRecord.of(short).step == 3
    assert checkpoint_steps(short) == [4]
    train_prior.run(config(num_steps=8), inputs, long, replace(context(), earlier=(short,)))
    assert "validation_4" not in long.read_json("validation.json"), "it has begun after these steps"
    require_of_one_step(long, 3)


def test_an_evaluation_of_other_weights_of_that_step_is_replaced(tmp_path: Path) -> None:
    """Training that rolls back comes to a step twice, with other samples; the best weights may be the first ones."""
    inputs, output = inputs_for("shifted", tmp_path), output_of(tmp_path / "p")
    other = output_of(tmp_path / "other")
    train_prior.run(config(num_steps=3, seed=1), inputs, other, context())
    with_others = other.read_json("validation.json")

    def cut(step: int) -> None:
        train_cut_at(step, config(), inputs, output)

    cut(5)
    expected = output.read_json("validation.json")
    output.remove(TrainedRecord.file)
    output.write_json("validation.json", expected | {"validation_3": with_others["validation_3"]})
    train_prior.run(config(), inputs, output, context())
    require_of_one_step(output, 3)


def test_a_student_keeps_its_own_best_weights(tmp_path: Path) -> None:
    inputs, output = inputs_for("gaussian", tmp_path), output_of(tmp_path / "p")
    steps = {"num_steps": 7, "sampling_steps": 2, "teacher_steps": 8, "learning_rate": 0.01}
    train_prior.run(config("gaussian", distillation=steps), inputs, output, context())
    best = int(TrainedRecord.of(output).metrics["best_step"])
    assert best in (3, 6, 7)
    require_of_one_step(output, best)
    require_of_one_step(Output(f"{output.uri}/teacher", "train_prior", "p0"), 3)
