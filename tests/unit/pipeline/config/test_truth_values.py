"""A truth value is no number: YAML reads on, yes and true as one, and pydantic would make 1 of it."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config, load_resolved
from pipeline.errors import UsageError

SMOKE = Path(__file__).resolve().parents[4] / "configs" / "smoke.yaml"


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("train_prior.training.learning_rate=on", "train_prior.training.learning_rate: found true; expected a number"),
        ("train_decoder.samples.num_images=yes", "train_decoder.samples.num_images: found true; expected a number"),
        ("train_prior.training.warmup_steps=off", "train_prior.training.warmup_steps: found false; expected a number"),
        ("train_decoder.training.betas=[0.9, no]", "train_decoder.training.betas.1: found false; expected a number"),
        (
            "train_decoder.samples.guidance_scale=on",
            "train_decoder.samples.guidance_scale: found true; expected a number",
        ),
        ("storage.cache_gigabytes=true", "storage.cache_gigabytes: found true; expected a number"),
        ("captions.fraction=on", "captions.fraction: found true; expected a number"),
        ("seed=false", "seed: found false; expected a number"),
    ],
)
def test_a_truth_value_where_a_number_belongs_is_refused(word: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(SMOKE, [word])
    assert f"{SMOKE}: {words}" in str(caught.value)


def test_a_recorded_config_is_held_to_it_too() -> None:
    tree = load_config(SMOKE).shown()
    assert load_resolved(tree, [], "run.json").seed == load_config(SMOKE).seed
    with pytest.raises(UsageError, match=r"run\.json: seed: found true; expected a number"):
        load_resolved(tree, ["seed=true"], "run.json")


def test_what_is_true_or_false_stays_so() -> None:
    assert load_config(SMOKE, ["train_prior.training.compile=off"]).train_prior.training.compile is False
