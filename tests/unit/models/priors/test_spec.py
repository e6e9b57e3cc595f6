"""Settings of priors as JSON, and what they refuse."""

import json

import pytest

from models.diffusion.spec import ScheduleSpec
from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.diffusion.spec import DiffusionPriorSpec, GaussianPriorSpec, ShiftedPriorSpec
from models.priors.identity.spec import IdentityPriorSpec
from models.priors.registry import read_spec
from models.priors.spec import PriorSampling, PriorSpec, TextStateSpec, TransformerSpec

NETWORK = TransformerSpec(width=32, text_states={"t5": TextStateSpec(64, 20), "clip": TextStateSpec(48)})


@pytest.mark.parametrize(
    "settings",
    [
        ShiftedPriorSpec(8, 16, schedule=ScheduleSpec("cosine"), network=NETWORK, target="velocity", learnable=True),
        GaussianPriorSpec(8),
        AutoregressivePriorSpec(8, 4, NETWORK),
        IdentityPriorSpec(8),
    ],
    ids=lambda settings: settings.kind,
)
def test_settings_survive_json(settings: PriorSpec) -> None:
    read = read_spec(json.loads(json.dumps(settings.to_dict())))
    assert read == settings
    if isinstance(read, DiffusionPriorSpec) and isinstance(
        settings, DiffusionPriorSpec
    ):  # the order of the encoders is the order of their tokens
        assert list(read.network.text_states) == list(settings.network.text_states)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found kind .gan.: expected one of shifted, gaussian, flow, projection"):
        read_spec({"kind": "gan"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "midpoint"}, "sampler: found 'midpoint': expected null or one of ancestral, ddim"),
        ({"variance": "learned"}, "variance: found 'learned': expected null or one of posterior, large"),
        ({"eta": 1.5}, "eta: found 1.5: expected 0 to 1"),
        ({"guidance_rescale": -0.1}, "guidance_rescale: found -0.1: expected 0 to 1"),
        ({"num_steps": 0}, "num_steps: found 0: expected 1 to 10000"),
        ({"eta": 0.5}, "eta: found 0.5: expected 0 with sampler null"),
        ({"sampler": "ddim", "variance": "large"}, "variance: found 'large': expected null with sampler ddim"),
    ],
)
def test_impossible_sampling_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PriorSampling(**change)  # type: ignore[arg-type]
