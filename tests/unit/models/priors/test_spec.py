"""Settings of priors as JSON, and what they refuse."""

import json

import pytest

from models.diffusion.spec import ScheduleSpec
from models.priors.spec import (
    AutoregressivePriorSettings,
    DiffusionPriorSettings,
    IdentityPriorSettings,
    PriorSampling,
    PriorSettings,
    TextStateSettings,
    TransformerSettings,
    settings_from_json,
)

NETWORK = TransformerSettings(width=32, text_states={"t5": TextStateSettings(64, 20), "clip": TextStateSettings(48)})


@pytest.mark.parametrize(
    "settings",
    [
        DiffusionPriorSettings("shifted", 8, 16, ScheduleSpec("cosine"), NETWORK, target="velocity", learnable=True),
        DiffusionPriorSettings("gaussian", 8),
        AutoregressivePriorSettings(8, 4, NETWORK),
        IdentityPriorSettings(8),
    ],
    ids=lambda settings: settings.kind,
)
def test_settings_survive_json(settings: PriorSettings) -> None:
    read = settings_from_json(json.loads(json.dumps(settings.to_json())))
    assert read == settings
    if isinstance(read, DiffusionPriorSettings):  # the order of the encoders is the order of their tokens
        assert list(read.network.text_states) == list(settings.network.text_states)  # type: ignore[union-attr]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'gan': allowed are shifted, gaussian, autoregressive, identity"):
        settings_from_json({"kind": "gan"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "euler"}, "sampler: found 'euler': expected one of ancestral, ddim, dpm_solver"),
        ({"variance": "learned"}, "variance: found 'learned': expected one of posterior, large"),
        ({"eta": 1.5}, "eta: found 1.5: expected 0 to 1"),
        ({"guidance_rescale": -0.1}, "guidance_rescale: found -0.1: expected 0 to 1"),
        ({"num_steps": 0}, "num_steps: found 0: expected 1 or more"),
        ({"eta": 0.5}, "eta: found 0.5: expected 0 with sampler ancestral"),
        ({"sampler": "ddim", "variance": "large"}, "variance: found 'large': expected posterior with sampler ddim"),
    ],
)
def test_impossible_sampling_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PriorSampling(**change)  # type: ignore[arg-type]
