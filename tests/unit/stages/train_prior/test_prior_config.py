"""Sections of train_prior: what they turn into, and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from models.priors.sizes import transformer_of_size
from models.priors.spec import TextStateSpec, TransformerSpec
from stages.train_prior.config import NetworkConfig
from tests.unit.stages.train_prior.pieces import prior_config

IN_PARTS: dict[str, Any] = {"training": {"num_steps": 8, "batch_size": 16, "gradient_accumulation": 2}}


def test_a_size_is_a_preset_in_which_numbers_are_replaced() -> None:
    assert NetworkConfig().spec() == transformer_of_size("tiny")
    states = {"t5": TextStateSpec(8, 5)}
    network = NetworkConfig(size="small", num_layers=2, qk_norm=True, gradient_checkpointing=True).spec(states)
    assert (network.width, network.num_layers, network.num_heads) == (2048, 2, 32)
    assert network.qk_norm
    assert network.gradient_checkpointing
    assert network.text_states == states
    numbers: dict[str, Any] = {"width": 24, "num_layers": 1, "num_heads": 3, "feed_forward_factor": 2.0}
    assert NetworkConfig(size=None, **numbers).spec() == TransformerSpec(**numbers)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gaussian", {"network": {"width": 10, "num_heads": 4}}, "multiple of 2 x num_heads"),
        ("gaussian", {"network": {"size": "base", "num_heads": 7}}, "width is 768 with num_heads 7"),
        ("gaussian", {"network": {"size": None, "width": 8}}, "feed_forward_factor, num_heads, num_layers not given"),
        ("gaussian", {"validation": {"num_steps": [4, 1]}}, "ascending order"),
        ("gaussian", {"schedule": {"num_timesteps": 2}}, "at most schedule.num_timesteps"),
        ("gaussian", {"kappa": 2.0}, "kappa"),
        ("gaussian", {"noise_scale": 0.0}, "noise_scale: found 0.0: expected 0.01 to 100"),
        ("gaussian", {"text_states": ["t5", "t5"]}, "each of t5, language_model and clip once"),
        ("gaussian", {"validation": {"eta": 0.5}}, "eta: found 0.5: expected 0 with sampler null"),
        ("shifted", {"kappa": 1e39}, r"kappa: found 1e\+39: expected 0.1 to 100"),
        ("shifted", {"selection": "best"}, "'means' or 'samples'"),
        ("gaussian", {"validation": {"sampler": "heun"}}, "sampler is heun with kind gaussian: allowed are ancestral"),
        ("gaussian", {"validation": {"guidance_start": 0.6, "guidance_end": 0.5}}, "0 to 1, above guidance_start"),
        ("gaussian", {"standardise": "batch"}, "'none', 'global' or 'gaussian'"),
        ("flow", {"target": "noise"}, "target: found 'noise': expected one of sample, velocity on the path flow"),
        ("projection", {"form": "convolution"}, "'mlp' or 'transformer'"),
        ("projection", {"temperature": 0.0}, "temperature: found 0.0: expected above 0"),
        ("projection", IN_PARTS, "gradient_accumulation is 2 with contrastive_weight above 0, which .*: allowed is 1"),
        (
            "shifted",
            IN_PARTS | {"learnable": True},
            "accumulation is 2 with learnable Gaussians, .*: allowed is 1",
        ),
        ("autoregressive", {"validation": {"num_steps": [4]}}, "num_steps"),
        ("identity", {"training": {}}, "training"),
        ("magic", {}, "'shifted', 'gaussian', 'flow', 'projection', 'autoregressive'"),
    ],
)
def test_impossible_sections_are_refused(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        prior_config(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("projection", {"contrastive_weight": 0.0}),
        ("shifted", {}),
        ("shifted", {"learnable": True, "separation_weight": 0.0}),
    ],
)
def test_a_loss_of_single_pairs_is_taken_in_as_many_passes_as_one_likes(kind: str, changes: dict[str, Any]) -> None:
    assert prior_config(kind, **IN_PARTS, **changes).training.gradient_accumulation == 2
