import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from stages.formats.captions import CaptionsConfig, select_captioned

KEYS = [f"{index:08d}" for index in range(4000)]


def select(fraction: float, seed: int = 0) -> np.ndarray:
    return select_captioned(KEYS, CaptionsConfig(fraction=fraction, seed=seed))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_about_the_fraction_is_chosen(fraction):
    chosen = select(fraction)
    assert chosen.dtype == bool
    assert chosen.mean() == pytest.approx(fraction, abs=0.02)
    if fraction in (0.0, 1.0):
        assert chosen.mean() == fraction


def test_a_smaller_fraction_is_a_subset():
    small, large = select(0.1), select(0.3)
    assert not np.any(small & ~large)
    assert large.sum() > small.sum()


def test_the_choice_depends_on_the_key_and_the_seed_alone():
    whole = select(0.2)
    parts = [select_captioned(part, CaptionsConfig(fraction=0.2)) for part in (KEYS[:7], KEYS[7:])]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, select(0.2, seed=1))


def test_the_rule_is_as_documented():
    number = int.from_bytes(hashlib.sha256(b"3:00000042").digest()[:8], "big") / 2**64
    for fraction, chosen in ((number + 1e-9, True), (number - 1e-9, False)):
        assert select_captioned(["00000042"], CaptionsConfig(fraction=fraction, seed=3)).tolist() == [chosen]


def test_a_fraction_outside_0_to_1_is_refused():
    with pytest.raises(ValidationError, match="fraction"):
        CaptionsConfig(fraction=1.5)
