"""`training.best` names what a validation reports: another name is refused before a long training, and not after it."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.errors import UsageError
from stages.contract.errors import InputFault
from stages.train_autoencoder.check import check

CONFIGS = Path(__file__).resolve().parents[4] / "configs"


@pytest.mark.parametrize(
    ("config", "stage", "metric", "nearest"),
    [
        ("smoke", "train_prior", "cosin_true", " (nearest: cosine_true"),
        ("smoke", "train_prior", "loss", ""),
        ("smoke", "train_prior", "held_out_loss", ""),
        ("smoke", "train_decoder", "validation_loss", ""),
        ("smoke", "train_decoder", "heldout_loss", " (nearest: held_out_loss)"),
        ("photos", "train_clip", "retrieval_of_text", " (nearest: retrieval_image_of_text"),
        ("drawings/openmoji", "train_autoencoder", "held_psnr", " (nearest: held_out_psnr"),
    ],
)
def test_what_no_validation_reports_is_refused(config: str, stage: str, metric: str, nearest: str) -> None:
    best = f"{stage}.training.best={{metric: {metric}, mode: lowest}}"
    with pytest.raises(UsageError) as caught:
        load_config(CONFIGS / f"{config}.yaml", [best])
    assert f"training.best.metric is {metric!r}{nearest}" in str(caught.value)
    assert "allowed is a metric of the stage's validation, such as " in str(caught.value)


@pytest.mark.parametrize("steps", [50_001, 60_000])
def test_the_best_of_a_loss_with_an_adversary_in_it_is_refused(steps: int) -> None:
    best = "train_autoencoder.training.best={metric: held_out_loss, mode: lowest}"
    given = [best, f"train_autoencoder.training.num_steps={steps}"]
    section = load_config(CONFIGS / "paper/latent_diffusion.yaml", given).train_autoencoder  # as one that is recorded
    assert section is not None
    with pytest.raises(InputFault) as caught:
        check(section)
    assert "training.best.metric is 'held_out_loss', which holds the terms of an adversary" in str(caught.value)
    assert "give held_out_psnr, or leave training.best out" in str(caught.value)
    before = load_config(
        CONFIGS / "paper/latent_diffusion.yaml", [best, "train_autoencoder.training.num_steps=49999"]
    ).train_autoencoder
    assert before is not None
    check(before)
    assert not before.has_direction("held_out_loss", 50_000)
    assert before.has_direction("held_out_loss", 49_999)
    assert before.has_direction("held_out_psnr", 60_000)


@pytest.mark.parametrize(
    ("stage", "metric"),
    [
        ("train_prior", "retrieval_at_5/steps_4"),
        ("train_prior", "cosine_true_block_1"),
        ("train_decoder", "held_out_loss"),
        ("train_decoder", "held_out_accuracy"),
    ],
)
def test_what_one_may_report_is_taken(stage: str, metric: str) -> None:
    found = load_config(CONFIGS / "smoke.yaml", [f"{stage}.training.best={{metric: {metric}, mode: highest}}"])
    best = getattr(found, stage).training.best
    assert (best.metric, best.mode) == (metric, "highest")
