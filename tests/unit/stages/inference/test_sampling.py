"""The flat form of sampling settings, which files and callers hold: what it may say, and of which type."""

from typing import Any

import numpy as np
import pytest

from stages.inference.sampling import SamplingSettings


@pytest.mark.parametrize(
    "values",
    [
        {"decoder_size": 5}, {"prior_steps": 8.5}, {"prior_steps": 8.0}, {"prior_steps": True}, {"prior_steps": None},
        {"prior_guidance": "2"}, {"prior_guidance": True}, {"decoder_upsampling_steps": 2.5}, {"prior_sampler": 1},
        {"prior_sampler": []}, {"retrieval_weight": "1"}, {"decoder_top_k": {}}, {"prior_steps": 10**400},
        {"prior_guidance": 10**400}, {"prior_guidance": float("nan")}, {"decoder_guidance": float("inf")},
    ],
)  # fmt: skip
def test_another_type_or_bound_is_refused_by_the_setting(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"found .*(: Input should be|: expected)"):
        SamplingSettings.from_flat(values)


@pytest.mark.parametrize("values", [{}, {"prior_steps": np.int64(8)}, {"prior_guidance": 2, "decoder_size": "96x64"}])
def test_what_was_given_is_kept_as_it_is(values: dict[str, Any]) -> None:
    flat = SamplingSettings().flat() | values
    assert SamplingSettings.from_flat(values).flat() == flat
    assert SamplingSettings.from_flat(flat).flat() == flat
    assert {type(flat[name]) for name in values} == {type(value) for value in values.values()}
