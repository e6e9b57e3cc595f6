"""What a sweep sets holds in each of its runs, or is refused: labels, spread and settings are by it."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.sweep.config import load_sweep
from pipeline.sweep.run import open_sweep
from stages.training.config import LoopConfig
from tests.unit.pipeline.sweep.sweeps import TREE, write_sweep

GROUPS = {
    "sizes": {"set": {"seed": 3}, "grid": {"download_shards.image_size": [32, 64]}},
    "priors": {"grid": {"train_prior": [{"kind": "gaussian", "training": {"num_steps": 3, "batch_size": 4}}, None]}},
}


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("download_shards.image_size=48", r"groups\.sizes sets \(download_shards\.image_size\)"),
        ("download_shards={}", r"groups\.sizes sets \(download_shards\.image_size\)"),
        ("download_shards.image_size.x=48", r"groups\.sizes sets \(download_shards\.image_size\)"),
        ("seed=4", r"groups\.sizes sets \(seed\)"),
        ("train_prior.kind=flow", r"groups\.priors sets \(train_prior\)"),
        ("train_prior.learnable=true", r"groups\.priors sets \(train_prior\)"),  # it would make one of null
        ("fit_gaussians.seed=4", r"repeat sets \(fit_gaussians\.seed\)"),
        ("name=other", "every run of a sweep has the sweep's name"),
    ],
)
def test_an_override_of_what_a_sweep_sets_is_refused(tmp_path: Path, word: str, words: str) -> None:
    repeat = {"keys": ["fit_gaussians.seed"], "values": [0, 1]}
    sweep = load_sweep(write_sweep(tmp_path, groups=GROUPS, repeat=repeat, plots={}))
    with pytest.raises(UsageError, match=words):
        open_sweep(sweep, [f"store={tmp_path / 'store'}", word])


def test_what_is_of_the_base_may_be_overridden_below_a_section_that_a_group_sets(tmp_path: Path) -> None:
    groups = {"prompts": {"grid": {"train_prior": [GROUPS["priors"]["grid"]["train_prior"][0]]}}}
    words = [f"store={tmp_path / 'store'}", "train_prior.training.learning_rate=0.5", "fit_gaussians.num_gaussians=2"]
    for run in open_sweep(load_sweep(write_sweep(tmp_path, groups=groups)), words):
        config = run.experiment.config
        assert isinstance(config.train_prior, LoopConfig)
        assert config.train_prior.training.learning_rate == 0.5
        assert config.train_prior.training.num_steps == 3
        assert config.train_prior.seed == run.repeat
        assert config.fit_gaussians is not None
        assert config.fit_gaussians.num_gaussians == 2


def test_an_override_in_a_list_is_of_its_items(tmp_path: Path) -> None:
    grid = {"clip.models": [[{"kind": "trained"}], [{"kind": "trained"}, {"kind": "trained"}]]}
    sweep = load_sweep(write_sweep(tmp_path, groups={"models": {"grid": grid}}, plots={}))
    with pytest.raises(UsageError, match=r"groups\.models sets \(clip\.models\)"):
        open_sweep(sweep, ["clip.models.1.kind=folder"])
    with pytest.raises(UsageError, match="is not an index of this list"):
        open_sweep(sweep, ["clip.models.2.kind=folder"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": {"g": {"grid": {"seed": []}}}}, r"groups\.g\.grid\.seed: found \[\]; list should have at least 1"),
        ({"groups": {"g": {"grid": {"seed": [2, 1, 1]}}}}, r"groups\.g\.grid: seed has the value 1 twice"),
        ({"groups": {"g": {"grid": {"train_prior.kappa": [1, 1.0]}}}}, "has the value 1 twice"),
        ({"groups": {"g": {"grid": {"a": [{"b": 1, "c": 2}, {"c": 2, "b": 1}]}}}}, "has the value {.*} twice"),
        ({"groups": {"g": {"grid": {"storage.options.s3.secret": ["hush-hush"] * 2}}}}, "has the value … twice"),
        ({"groups": {"g": {"set": {"name": "other"}}}}, r"groups\.g: found the key name, which every run has"),
        ({"groups": {"g": {"grid": {"name": ["one", "other"]}}}}, r"groups\.g: found the key name"),
        (
            {"groups": {"g": {"grid": {"seed=1, x": [1]}}}},
            r"groups\.g: found the key 'seed=1, x'; expected a dotted key",
        ),
        ({"groups": {"g": {"set": {"a.b": 1}, "grid": {"a": [{}]}}}}, "grid: a would overwrite a.b of the same group"),
        ({"groups": {"g": {"set": {"a": 1}, "grid": {"a": [2]}}}}, "grid: a would overwrite a of the same group"),
        ({"groups": {"g": {"grid": {"a": [{"b": 1}], "a.b": [2]}}}}, "grid: a.b would overwrite a of the same group"),
        ({"repeat": {"keys": ["name"], "values": [1]}}, "repeat: found the key name"),
        ({"repeat": {"keys": ["seed"], "values": [0, 0]}}, "repeat: values has 0 twice, which is the same run"),
        (
            {"repeat": {"keys": ["seed", "train_prior.kappa"], "values": [0]}},
            r"repeat\.keys: train_prior\.kappa would overwrite train_prior\.kappa of groups\.shifted",
        ),
        (
            {"repeat": {"keys": ["fit_gaussians"], "values": [0]}},
            r"repeat\.keys: fit_gaussians would overwrite fit_gaussians\.num_gaussians of groups\.shifted",
        ),
        (
            {"repeat": {"keys": ["train_prior.training.num_steps"], "values": [4]}},
            r"repeat\.keys: train_prior\.training\.num_steps would overwrite train_prior of groups\.baseline",
        ),
        ({"groups": {"": {}}, "plots": {}}, "groups: found the name ''; allowed: 1 to 100 characters"),
        ({"groups": {"g" * 101: {}}, "plots": {}}, "groups: found the name 'ggg.*; allowed: 1 to 100 characters"),
        ({"name": "n" * 101}, "name: found 'nnn.*; string should have at most 100 characters"),
    ],
)
def test_a_setting_that_would_not_hold_is_refused_in_the_file(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as found:
        load_sweep(write_sweep(tmp_path, **changes))
    assert "hush" not in str(found.value)


def test_values_that_are_different_to_a_key_are_no_repetition(tmp_path: Path) -> None:
    values = [1, True, "1", "true", None, "null", [1], 0.5]
    groups = {"g": {"grid": {"a": values}}, "h": TREE["groups"]["shifted"]}
    assert load_sweep(write_sweep(tmp_path, groups=groups)).groups["g"].grid["a"] == values
