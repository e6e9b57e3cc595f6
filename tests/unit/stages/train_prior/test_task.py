"""What a prior is made of and what it sees: settings, Gaussians, captions, text states, in any number of parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.gaussians.bank import GaussianBank
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import DiffusionPriorSpec
from models.priors.spec import TextStateSpec
from stages.formats.model_folders import load_model_config
from stages.inference.loading import load_prior
from stages.storage.artifact import Artifact, Output
from stages.train_prior import stage as train_prior
from stages.train_prior.task import PriorTask
from stages.training.loader import parts_of
from stages.training.task import BatchPart, RankInfo
from tests.unit.stages.train_prior.pieces import (
    MOST_STATES,
    STATE_WIDTH,
    context,
    inputs_for,
    prior_config,
)

HERE = RankInfo(0, 1, torch.device("cpu"))


def make_task(config: Any, inputs: Mapping[str, Artifact], folder: Path) -> PriorTask:
    output = Output(str(folder / "p"), "train_prior", "p0")
    task = PriorTask(config, inputs["embed_clip"], inputs.get("fit_gaussians"), output)
    task.setup(HERE)
    return task


def bank_of(task: PriorTask) -> GaussianBank:
    prior = task.build_model()
    assert isinstance(prior, DiffusionPrior)
    return prior.bank


def test_the_section_becomes_the_models_settings(tmp_path: Path) -> None:
    config = prior_config(
        "shifted", kappa=2.0, selection="samples", learnable=True, separation_weight=0.3, target="velocity",
        loss_weight="min_snr", min_snr_gamma=3.0, schedule={"kind": "cosine", "num_timesteps": 50},
        network={"size": "tiny", "num_layers": 1, "qk_norm": True, "gradient_checkpointing": True},
    )  # fmt: skip
    task = make_task(config, inputs_for("shifted", tmp_path), tmp_path)
    settings = task.state.spec
    assert isinstance(settings, DiffusionPriorSpec)
    for name in ("selection", "learnable", "separation_weight", "target", "loss_weight", "min_snr_gamma"):
        assert getattr(settings, name) == getattr(config, name)
    assert (settings.kind, settings.num_gaussians, settings.schedule.kind) == ("shifted", 4, "cosine")
    assert settings.network.qk_norm
    assert settings.network.gradient_checkpointing
    assert float(bank_of(task).kappa) == 2.0


def test_the_baseline_has_the_same_freedom_of_noise(tmp_path: Path) -> None:
    inputs = inputs_for("gaussian", tmp_path)
    plain = bank_of(make_task(prior_config("gaussian"), inputs, tmp_path))
    assert plain.moments(torch.tensor([0]))[1].unique().tolist() == [1.0]
    task = make_task(prior_config("gaussian", noise_scale=2.0), inputs, tmp_path)
    mean, std = bank_of(task).moments(torch.tensor([0]))
    image = task.state.train.image
    expected = 2.0 * (image - image.mean(0)).square().mean().sqrt()
    assert mean.abs().max() == 0
    torch.testing.assert_close(std, expected.expand_as(std))


def test_one_caption_of_an_image_is_generated_at_each_visit(tmp_path: Path) -> None:
    task = make_task(prior_config("gaussian"), inputs_for("gaussian", tmp_path, num_captions=3), tmp_path)
    train, epochs = task.state.train, 40
    assert len(train.text) == 3 * len(train)
    seen: dict[int, list[int]] = {}
    for epoch in range(epochs):
        part = BatchPart(epoch, 0, len(train), len(train))
        rows = task.state.order.at(part.positions)[:, 1].tolist()
        batch = task.prepare(part)
        for row, image, text in zip(rows, batch["image_embedding"], batch["text_embedding"], strict=True):
            assert torch.equal(image, train.image[row])
            own = (train.text[3 * row : 3 * row + 3] == text).all(1)
            assert int(own.sum()) == 1
            seen.setdefault(row, []).append(int(own.int().argmax()))
    assert all(len(visits) == epochs for visits in seen.values())  # every image once in each epoch
    counts = torch.tensor([[visits.count(n) for n in range(3)] for visits in seen.values()]).double()
    assert counts.sum(0).tolist() == pytest.approx([epochs * len(train) / 3] * 3, rel=0.15)
    assert float((counts > 0).all(1).double().mean()) > 0.99


@pytest.mark.parametrize("states", [(), ("t5", "clip")])
def test_two_workers_prepare_what_one_prepares(tmp_path: Path, states: tuple[str, ...]) -> None:
    inputs = inputs_for("gaussian", tmp_path, num_captions=2, states=states)
    task = make_task(prior_config("gaussian"), inputs, tmp_path)
    for step in (0, 3, 11):
        whole = task.prepare(BatchPart(step, 0, 16, 16))
        rank_infos = [RankInfo(rank, 2, torch.device("cpu")) for rank in range(2)]
        parts = [task.prepare(part) for rank_info in rank_infos for part in parts_of(step, 16, 2, rank_info)]
        first = 0
        for part in parts:
            for name, value in part.items():
                expected = whole[name][first : first + 4]
                if name.startswith("text_states/"):  # padded to the longest caption of its part
                    expected = expected[:, : value.shape[1]]
                assert torch.equal(value, expected)
            first += 4
        assert first == 16


@pytest.mark.parametrize(
    ("asked", "used"), [(None, ["t5", "clip"]), (["clip", "t5"], ["t5", "clip"]), (["clip"], ["clip"]), ([], [])]
)
def test_text_states_reach_the_network(tmp_path: Path, asked: list[str] | None, used: list[str]) -> None:
    config = prior_config("gaussian", text_states=asked)
    inputs = inputs_for("gaussian", tmp_path, states=("t5", "clip"))
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    train_prior.run(config, inputs, output, context())
    prior, _ = load_prior(output)
    assert isinstance(prior.spec, DiffusionPriorSpec)
    assert prior.spec.network.text_states == dict.fromkeys(used, TextStateSpec(STATE_WIDTH, MOST_STATES))
    assert list(prior.spec.network.text_states) == used
    assert set(load_model_config(output, "prior")["text_encoders"]) == set(used)
    batch = make_task(config, inputs, tmp_path / "other").prepare(BatchPart(0, 0, 4, 4))
    assert {name for name in batch if name.startswith("text_states/")} == {f"text_states/{name}" for name in used}
