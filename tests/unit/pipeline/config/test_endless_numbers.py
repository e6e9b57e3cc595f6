"""Numbers without end: no key of an experiment takes infinity or NaN, and what counts time or bytes has a bound."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.loading import load_config
from pipeline.config.messages import keys_of
from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError

SMOKE = Path(__file__).resolve().parents[4] / "configs" / "smoke.yaml"
ENDLESS = (math.inf, -math.inf, math.nan, "inf", "-Infinity", "nan")
LARGE = 1e300
COUNTED = ("_seconds", "_timeout", "_wait", "wait_for_nodes", "_gigabytes", "timeout", "patience")

Location = tuple[str | int, ...]
Make = Callable[[Any], Any]
Number = tuple[Location, Make]


def floats_of(annotation: Any) -> Iterator[Number]:
    """Yield where a type holds a float, and what makes a tree with a value there."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is float:
        yield (), lambda value: value
    elif isinstance(annotation, type) and (hasattr(annotation, "model_fields") or is_dataclass(annotation)):
        yield from _floats_of_keys(keys_of(annotation))
    elif origin is Annotated:
        yield from floats_of(args[0])
    elif origin in (Union, UnionType):
        for option in args:
            yield from floats_of(option)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from (_below(path, make, "a", lambda inner: {"a": inner}) for path, make in floats_of(args[1]))
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        for index, item in enumerate(item for item in args if item is not ...):
            before = [0.5] * index
            yield from (_below(path, make, index, partial(_at_end, before)) for path, make in floats_of(item))
    else:
        assert origin in (None, Literal), f"{annotation} may hold numbers that nothing here looks for"


def _floats_of_keys(keys: Mapping[str, Any]) -> Iterator[Number]:
    kind = {"kind": get_args(keys["kind"])[0]} if "kind" in keys else {}
    for name, annotation in keys.items():
        yield from (_below(path, make, name, partial(_with_key, kind, name)) for path, make in floats_of(annotation))


def _below(path: Location, make: Make, part: str | int, wrap: Make) -> Number:
    return (part, *path), lambda value: wrap(make(value))


def _at_end(before: list[float], value: Any) -> list[Any]:
    return [*before, value]


def _with_key(kind: dict[str, str], name: str, value: Any) -> dict[str, Any]:
    return {**kind, name: value}


NUMBERS = list(floats_of(RunConfig))


def faults_at(path: Location, tree: Any) -> list[str]:
    """Return the types of what is found wrong at a path; pydantic's own has the tags of unions between its keys."""
    try:
        RunConfig.model_validate({"name": "a", **tree})
    except ValidationError as error:
        return [fault["type"] for fault in error.errors() if _is_within(path, fault["loc"])]
    return []


def _is_within(path: Location, location: tuple[Any, ...]) -> bool:
    parts = iter(location)
    return all(any(part == found for found in parts) for part in path)


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
