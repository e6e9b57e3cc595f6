"""Training without captions, alone or before that with them: what is seen when, and that faults change nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.priors.spec import PriorSampling
from stages.inference.loading import load_prior
from stages.storage.artifact import Output
from stages.train_prior import stage as train_prior
from stages.train_prior.task import PriorTask
from stages.training.config import TrainingConfig
from stages.training.task import BatchPart, RankInfo
from tests.unit.stages.train_prior.pieces import (
    ROWS,
    SHARDS,
    context,
    inputs_for,
    make_embeddings,
    prior_config,
    train_cut_at,
)

TRAINING = {"num_steps": 6, "batch_size": 16, "log_interval": 2, "precision": "float32", "checkpoint_interval": 2}


def pretrained(kind: str = "gaussian", **changes: Any) -> Any:
    return prior_config(kind, training=TRAINING, pretraining={"num_steps": 5}, **changes)


def test_all_images_come_first_and_pairs_after_them(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, states=("t5",))
    task = PriorTask(pretrained(), embeddings, None, Output(str(tmp_path / "p"), "train_prior", "p0"))
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    assert task.state.images is not None
    assert len(task.state.images) > 1.8 * len(task.state.train)  # every second image has a caption
    held_out = {tuple(row) for row in task.state.held_out.image.tolist()}
    assert not held_out & {tuple(row) for row in task.state.images.image.tolist()}
    before, after = (task.prepare(BatchPart(step, 0, 16, 16)) for step in (4, 5))
    assert before["drop_text"].all()
    assert torch.equal(before["text_embedding"], before["image_embedding"])
    assert before["text_states/t5"].shape == (16, 0, 3)
    assert not after["drop_text"].all()
    assert not torch.equal(after["text_embedding"], after["image_embedding"])
    assert after.keys() == before.keys()
    passed_over = task.prepare(BatchPart(4, 0, 16, 16, skipped=3))  # as training rolled back: samples of step 7
    assert passed_over["drop_text"].all()
    assert not torch.equal(passed_over["image_embedding"], before["image_embedding"])


def test_rate_and_average_begin_anew_with_the_second_part() -> None:
    training = TrainingConfig(num_steps=10, batch_size=2, learning_rate=1.0, warmup_steps=2, schedule="cosine")
    config = prior_config("gaussian", training=dict(training), pretraining={"num_steps": 7, "learning_rate": 3.0})
    both = config.all_training
    assert both.num_steps == 17
    assert [both.learning_rate_at(step) for step in range(7, 17)] == [training.learning_rate_at(n) for n in range(10)]
    assert both.learning_rate_at(2) == 3.0
    assert both.ema_decay_at(6) > both.ema_decay_at(7) == training.ema_decay_at(0)


@pytest.mark.parametrize("kind", ["shifted", "flow", "autoregressive"])
def test_a_run_that_is_cut_at_any_part_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    inputs, config = inputs_for(kind, tmp_path), pretrained(kind)
    whole = Output(str(tmp_path / "whole"), "train_prior", "p0")
    summary = train_prior.run(config, inputs, whole, context())
    assert summary.items == 11 * 16

    for step in (4, 6):  # steps of the first part, and of the second
        output = Output(str(tmp_path / f"cut{step}"), "train_prior", "p0")
        train_cut_at(step, config, inputs, output)
        assert (
            output.local("prior/model.safetensors").read_bytes() == whole.local("prior/model.safetensors").read_bytes()
        )
    prior, _ = load_prior(whole)
    assert prior.sample_unconditional([1, 2], PriorSampling(num_steps=2)).isfinite().all()


def test_images_without_any_caption_are_enough(tmp_path: Path) -> None:
    inputs = inputs_for("shifted", tmp_path, captioned=False)
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    summary = train_prior.run(prior_config("shifted", text_dropout=1.0), inputs, output, context())
    assert summary.counts["training_images"] + summary.counts["held_out_images"] == ROWS * SHARDS
    report = output.read_json("validation.json")["by_steps"]["steps_4"]
    assert {"norm_ratio", "variance_ratio", "mmd"} <= report.keys()
    assert not [name for name in report if name.startswith(("cosine", "retrieval"))]
    assert load_prior(output)[0].spec.learned_from == "images"


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("projection", {"text_dropout": 1.0}, "text_dropout is 1 with kind projection, which has nothing to learn"),
        ("projection", {"pretraining": {"num_steps": 2}}, "pretraining is given with kind projection"),
        ("flow", {"source": "text", "text_dropout": 1.0}, "source: found 'text': expected noise or gaussian"),
        ("gaussian", {"pretraining": {"num_steps": 2}, "text_dropout": 1.0}, "learns from no caption afterwards"),
        ("gaussian", {"pretraining": {"num_steps": 2, "warmup_steps": 2}}, "warmup_steps is 2: allowed is less than"),
    ],
)
def test_what_cannot_be_learned_without_captions_is_refused(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        prior_config(kind, **changes)
