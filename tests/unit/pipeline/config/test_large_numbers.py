"""Numbers that a stage could not use, hours later, are refused at once: seeds below 0, counts that are too large."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from tests.unit.pipeline.config.numbers_of_keys import faults_at, numbers_of

SMOKE = Path(__file__).resolve().parents[4] / "configs" / "smoke.yaml"
NUMBERS = [(path, make) for path, make in numbers_of(RunConfig, int) if "resources" not in path]
HASHED = ("captions.seed", "split.seed", "caption_images.seed")
"""Seeds of a hash, which takes any number."""
OF_SPECS = ("network", "conditioning", "generator", "discriminator", "losses", "adversary", "codebook", "schedule",
            "buckets", "samples")  # fmt: skip
"""Sections of the specs of models, whose sizes the network's own are."""


def names(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def test_no_seed_of_a_random_generator_takes_a_number_below_zero_or_one_too_large() -> None:
    seeds = [(path, make) for path, make in NUMBERS if path[-1] == "seed" and not names(path).endswith(HASHED)]
    assert len(seeds) > 20
    taken = {names(path) for path, make in seeds for value in (-1, 2**53 + 1) if not faults_at(path, make(value))}
    assert taken == {"download_shards.source.seed"}  # of the concepts of drawings, by their hash
    assert all(not faults_at(path, make(value)) for path, make in seeds for value in (0, 2**53))


def test_no_count_of_a_stage_takes_a_number_that_arrays_do_not_hold() -> None:
    counts = [(path, make) for path, make in NUMBERS if path[-1] != "seed" and not {*path} & {*OF_SPECS}]
    taken = {names(path) for path, make in counts if not faults_at(path, make(10**30))}
    assert taken == {
        "cluster.num_cpus", "train_prior.base_dims", "train_prior.num_buckets", "train_prior.num_components",
        "generate.prior.num_steps", "generate.decoder.num_steps", "generate.decoder.top_k",
        "generate.decoder.upsampling_steps",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("generate.prompts.seed=-1", "generate.prompts.seed: found -1; input should be greater than or equal to 0"),
        ("download_shards.source.seed=-1", "download_shards.source.seed: found -1; input should be greater than"),
        ("train_prior.seed=-5", "train_prior.seed: found -5; input should be greater than or equal to 0"),
        (f"generate.seed={2**64}", f"generate.seed: found {2**64}; input should be less than or equal to {2**53}"),
        (f"download_shards.image_size={10**30}", f"image_size: found {10**30}; input should be less than or equal"),
        (f"download_shards.rows_per_shard={10**30}", f"rows_per_shard: found {10**30}; input should be less than"),
        (f"train_prior.training.num_steps={10**30}", f"num_steps: found {10**30}; input should be less than or equal"),
        (f"train_prior.training.batch_size={10**30}", f"batch_size: found {10**30}; input should be less than or eq"),
        ("train_decoder.resolution=65536", "train_decoder.resolution: found 65536; input should be less than or equal"),
    ],
)
def test_the_sentence_names_key_and_value_and_bound(word: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(SMOKE, [word])
    assert words in str(caught.value)


def test_large_numbers_that_a_stage_can_use_are_taken() -> None:
    words = (f"download_shards.max_bytes={2**63 - 1}", f"download_shards.image_size={10**6}", f"seed={2**53}",
             "captions.seed=-1", "split.seed=-1")  # fmt: skip
    config = load_config(SMOKE, words)
    assert config.download_shards is not None
    assert config.download_shards.image_size == 10**6
    assert config.split.seed == config.captions.seed == -1
