"""Distillation as a part of train_prior: where the teacher is from, and that faults change nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from models.priors.diffusion.spec import DistilledSpec, ProcessPriorSpec
from models.priors.spec import PriorSampling
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Event, LoggedImage, LoggedSteps, Metrics, Progress
from stages.formats.checkpoints import read_logged
from stages.formats.worst_samples import WorstSamples
from stages.inference.loading import load_prior
from stages.storage.artifact import Output
from stages.train_prior import stage as train_prior
from stages.train_prior.check import check
from tests.unit.stages.train_prior.pieces import DIM, context, inputs_for, make_embeddings, prior_config, train_cut_at

TRAINING = {"num_steps": 6, "batch_size": 16, "log_interval": 2, "precision": "float32", "checkpoint_interval": 2}
DISTILLATION = {"num_steps": 5, "sampling_steps": 2, "teacher_steps": 8, "guidance_scale": 2.0, "learning_rate": 1e-3}


def distilled(kind: str = "gaussian", *, changes: dict[str, Any] | None = None, **section: Any) -> Any:
    return prior_config(kind, training=TRAINING, distillation=DISTILLATION | (changes or {}), **section)


def weights(output: Output) -> bytes:
    return output.local("prior/model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["shifted", "flow"])
def test_a_run_that_is_cut_anywhere_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    inputs, events = inputs_for(kind, tmp_path, states=("t5",)), list[Event]()
    config = distilled(kind, pretraining={"num_steps": 2}) if kind == "shifted" else distilled(kind)
    before = config.all_training.num_steps
    whole = Output(str(tmp_path / "whole"), "train_prior", "p0")
    summary = train_prior.run(config, inputs, whole, context(events))
    assert summary.items == (before + 5) * 16
    assert {"cosine_true", "teacher_cosine_true"} <= summary.metrics.keys()
    done = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == (before + 5, before + 5)

    for step in (4, before + 3) if kind == "shifted" else (before,):  # of the teacher, of the student, between them
        output = Output(str(tmp_path / f"cut{step}"), "train_prior", "p0")
        train_cut_at(step, config, inputs, output)
        assert weights(output) == weights(whole)
        assert not output.glob("units/checkpoint_*.json")
        assert not output.exists("teacher/checkpoints") or not output.glob("teacher/checkpoints/*")


def test_a_student_is_a_prior_of_few_steps_that_names_its_teacher(tmp_path: Path) -> None:
    inputs, output = inputs_for("gaussian", tmp_path), Output(str(tmp_path / "p"), "train_prior", "p0")
    events = list[Event]()
    train_prior.run(distilled(), inputs, output, context(events))
    prior, _ = load_prior(output)
    assert isinstance(prior.spec, ProcessPriorSpec)
    assert prior.spec.distilled == DistilledSpec(num_steps=2, teacher_steps=8, guidance_scale=2.0)
    assert list(output.read_json("validation.json")["by_steps"]) == ["steps_2"]
    assert list(output.read_json("teacher/validation.json")["by_steps"]) == ["steps_1", "steps_4"]
    for folder, trained, most in (("", 5, "steps_2"), ("/teacher", 6, "steps_4")):
        part = Output(f"{output.uri}{folder}", "train_prior", "p0")
        worst, report = WorstSamples.of(part), part.read_json("validation.json")["by_steps"][most]
        assert worst.step == trained
        assert worst.mean_loss == pytest.approx(1 - report["cosine_true"])
    description = output.read_json("prior/config.json")
    assert len(description["teacher"]) == 64
    teacher = output.read_json("teacher/prior/config.json")
    assert description["model"] == teacher["model"] | {"distilled": description["model"]["distilled"]}
    names = {name for event in events if isinstance(event, Metrics) for name in event.values}
    steps = {event.step for event in events if isinstance(event, Metrics)}
    assert {"teacher_loss", "loss"} <= names
    assert max(steps) == 11
    reported = [event.without_measures() for event in events if isinstance(event, Metrics)]
    assert [row for event in events if isinstance(event, LoggedSteps) for row in event.rows] == reported
    assert kept_steps(distilled(), output) == reported
    images = {event.name for event in events if isinstance(event, LoggedImage)}
    assert {"held_out_by_time_step", "teacher_held_out_by_time_step"} <= images


def kept_steps(config: Any, output: Output) -> list[Metrics]:
    """Return what the artifact holds of all trainings, as it was reported."""
    folders = [(part, f"{output.uri}/{part.folder}".rstrip("/")) for part in config.parts]
    return [part.reported(row) for part, uri in folders for row in read_logged(Output(uri, "train_prior", "p0")).rows]


def test_a_teacher_from_elsewhere_makes_the_same_student(tmp_path: Path) -> None:
    inputs = inputs_for("gaussian", tmp_path)
    own, other = (Output(str(tmp_path / name), "train_prior", "p0") for name in ("own", "other"))
    train_prior.run(distilled(), inputs, own, context())
    folder = str(tmp_path / "own" / "teacher" / "prior")
    config = distilled(changes={"teacher": folder})
    check(config)
    events = list[Event]()
    summary = train_prior.run(config, inputs, other, context(events))
    assert kept_steps(config, other) == [event.without_measures() for event in events if isinstance(event, Metrics)]
    assert summary.items == 5 * 16
    assert not other.exists("teacher")
    assert weights(other) == weights(own)
    assert other.read_json("prior/config.json") == own.read_json("prior/config.json")


def test_the_teacher_is_part_of_what_the_result_depends_on(tmp_path: Path) -> None:
    assert "distillation" not in prior_config("flow").identity()
    identities = []
    for content in ("one", "another"):
        folder = tmp_path / content / "prior"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(content)
        identities.append(json.dumps(distilled(changes={"teacher": str(folder)}).identity()))
    assert identities[0] != identities[1]
    assert str(tmp_path) not in identities[0]


def test_a_teacher_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    inputs = inputs_for("gaussian", tmp_path)
    own = Output(str(tmp_path / "own"), "train_prior", "p0")
    train_prior.run(prior_config("gaussian"), inputs, own, context())
    elsewhere = {"teacher": str(tmp_path / "own" / "prior")}
    output = Output(str(tmp_path / "p"), "train_prior", "p1")
    with pytest.raises(InputFault, match=r"distillation.teacher: .*target is 'sample' there, and 'velocity' here"):
        train_prior.run(distilled(changes=elsewhere, target="velocity"), inputs, output, context())
    others = {"embed_clip": make_embeddings(tmp_path / "others", clip="another")}
    with pytest.raises(ArtifactError, match="name a prior that was trained on these embeddings"):
        train_prior.run(distilled(changes=elsewhere), others, output, context())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFault, match=r"empty has no config.json and no model.safetensors: expected the folder"):
        check(distilled(changes={"teacher": str(tmp_path / "empty")}))


def test_a_prior_that_has_learned_from_images_alone_can_be_distilled(tmp_path: Path) -> None:
    inputs, output = inputs_for("flow", tmp_path, captioned=False), Output(str(tmp_path / "p"), "train_prior", "p0")
    train_prior.run(distilled("flow", text_dropout=1.0), inputs, output, context())
    assert load_prior(output)[0].sample_unconditional([1, 2], PriorSampling()).isfinite().all()


def test_the_size_counts_the_teacher_as_frozen() -> None:
    shapes: Any = SimpleNamespace(embed_dim=DIM, text_dim=None, num_gaussians=1, text_states={})
    weights = list(train_prior.planned_module(distilled(), shapes).parameters())
    alone = list(train_prior.planned_module(prior_config("gaussian"), shapes).parameters())
    count = sum(weight.numel() for weight in alone)
    assert sum(weight.numel() for weight in weights if weight.requires_grad) == count
    assert sum(weight.numel() for weight in weights) == 2 * count


@pytest.mark.parametrize(
    ("kind", "changes", "section", "words"),
    [
        ("gaussian", {"sampling_steps": 3}, {}, "teacher_steps: found 8: expected a multiple of num_steps, 3"),
        ("gaussian", {"teacher_steps": 2000}, {}, "teacher_steps: found 2000: expected at most 1000"),
        ("gaussian", {}, {"target": "noise"}, "target: found 'noise': expected sample or velocity"),
        (
            "gaussian",
            {"warmup_steps": 5},
            {},
            "distillation.warmup_steps is 5: allowed is less than distillation.num_steps, which is 5",
        ),
        ("gaussian", {"teacher": "t"}, {"pretraining": {"num_steps": 2}}, "which is trained already"),
        ("projection", {}, {}, "distillation"),
        ("autoregressive", {}, {}, "distillation"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    kind: str, changes: dict[str, Any], section: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        distilled(kind, changes=changes, **section)
