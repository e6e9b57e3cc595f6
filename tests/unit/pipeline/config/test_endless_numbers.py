"""Numbers without end: no key of an experiment takes infinity or NaN, and what counts time or bytes has a bound."""

import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from tests.unit.pipeline.config.numbers_of_keys import faults_at, numbers_of

SMOKE = Path(__file__).resolve().parents[4] / "configs" / "smoke.yaml"
ENDLESS = (math.inf, -math.inf, math.nan, "inf", "-Infinity", "nan")
LARGE = 1e300
COUNTED = ("_seconds", "_timeout", "_wait", "wait_for_nodes", "_gigabytes", "timeout", "patience")

NUMBERS = list(numbers_of(RunConfig, float))


@pytest.mark.parametrize("value", ENDLESS)
def test_no_float_of_an_experiment_takes_a_number_without_end(value: Any) -> None:
    taken = {".".join(map(str, path)) for path, make in NUMBERS if "finite_number" not in faults_at(path, make(value))}
    assert taken == set()


def test_the_walk_reaches_sections_dataclasses_and_lists() -> None:
    paths = {".".join(map(str, path)) for path, _ in NUMBERS}
    assert paths >= {
        "storage.patience", "train_prior.training.betas.1", "download_shards.resources.gpus_per_worker",
        "train_decoder.samples.temperature", "train_upsampler.network.max_noise", "captions.mix.human",
        "train_clip.preprocessing.mean.2",
    }  # fmt: skip


def test_what_counts_time_or_bytes_has_a_bound() -> None:
    counted = [(path, make) for path, make in NUMBERS if str(path[-1]).endswith(COUNTED)]
    assert len(counted) > 50
    assert {".".join(map(str, path)) for path, make in counted if not faults_at(path, make(LARGE))} == set()


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("storage.patience=.inf", "storage.patience: found inf; expected a finite number"),
        ("storage.patience=inf", "storage.patience: found 'inf'; expected a finite number"),
        ("download_shards.timeout=.inf", "download_shards.timeout: found inf; expected a finite number"),
        ("download_shards.timeout=1.0e+300", "found 1e+300; input should be less than or equal to 86400"),
        ("train_decoder.training.betas=[0.9, .nan]", "train_decoder.training.betas.1: found nan; expected a finite"),
        ("train_prior.training.gradient_clip=.inf", "gradient_clip: found inf; expected a finite number, or null"),
        ("storage.cache_gigabytes=.inf", "storage.cache_gigabytes: found inf; expected a finite number, or null"),
        ("train_decoder.samples.temperature=.inf", "train_decoder.samples.temperature: found inf; expected a finite"),
        ("train_decoder.samples.dynamic_threshold=.nan", "threshold: found nan; expected a finite number, or null"),
        ("train_prior.training.num_steps=.inf", "train_prior.training.num_steps: found inf; expected a finite number"),
        (
            "train_prior.network.feed_forward_factor=1.0e+300",
            "found 1e+300; input should be less than or equal to 1000",
        ),
        ("train_clip={architecture: {embed_dim: 8, vision_cfg: {mlp_ratio: .inf}, text_cfg: {}}}", "mlp_ratio"),
        ("download_shards.resources.gpus_per_worker=.inf", "resources.gpus_per_worker: found inf; expected a finite"),
        ("download_shards.resources.gpus_per_worker=some", "resources.gpus_per_worker: found 'some'; input should be"),
        ("train_decoder.init_from=.inf", "train_decoder.init_from: found inf; input should be a valid string"),
        ("train_decoder.init_from=5", "train_decoder.init_from: found 5; input should be a valid string"),
    ],
)
def test_the_sentence_names_key_and_value_and_what_is_allowed(word: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(SMOKE, [word])
    assert f"{SMOKE}: " in str(caught.value)
    assert words in str(caught.value)


def test_long_waits_are_taken() -> None:
    month = 30 * 86_400
    words = (
        f"storage.lease_wait={month}", f"storage.patience={month / 60}", "storage.cache_gigabytes=100000",
        f"download_shards.resources.stage_timeout={month}", "download_shards.timeout=3600",
        "train_prior.training.gradient_clip=null",
    )  # fmt: skip
    config = load_config(SMOKE, words)
    assert config.storage.lease_wait == month


@pytest.mark.parametrize(
    "words", [("track", "--patience", "inf"), ("track", "--patience", "nan"), ("gc", "--older-than", "nan")]
)
def test_no_option_takes_a_number_without_end(words: tuple[str, ...], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, [*words, "--store", str(tmp_path)])
    assert found.exit_code == 2
    assert f"Invalid value for '{words[1]}'" in found.output
