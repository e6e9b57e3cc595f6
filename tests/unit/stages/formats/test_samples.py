import hashlib

import pytest

from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.samples import KEY_DIGITS, sample_keys, uniform_number


def test_a_key_is_the_hash_of_the_name_whatever_stands_beside_it() -> None:
    expected = hashlib.sha256(b"a/photo.jpg").hexdigest()[:KEY_DIGITS]
    assert sample_keys(["a/photo.jpg"]) == [expected]
    assert sample_keys(["b", "a/photo.jpg", "c"])[1] == expected
    assert sample_keys(["caf\u00e9.jpg"]) == sample_keys(["cafe\u0301.jpg"])  # as another system writes it
    assert len(set(sample_keys(map(str, range(5000))))) == 5000


def test_equal_names_in_a_shard_are_numbered_and_chosen_alike() -> None:
    first, other, second, third = sample_keys(["x", "y", "x", "x"])
    assert (second, third) == (f"{first}+1", f"{first}+2")
    for seed in range(20):
        assert uniform_number(first, seed) == uniform_number(second, seed) == uniform_number(third, seed)
    assert uniform_number(first, 0) != uniform_number(other, 0)
    assert uniform_number("c+1", 0) != uniform_number("c+2", 0)  # keys of others are taken as they are


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_added_and_removed_samples_leave_every_other_choice(fraction: float) -> None:
    names = [f"img_{number:05d}.jpg" for number in range(5862)]
    grown = sorted([f"img_{number:05d}b.jpg" for number in range(0, 5862, 58)] + names[117:])  # + 2 %, - 2 %
    usable = CaptionsConfig(fraction=fraction)
    before, after = (dict(zip(n, select_captioned(sample_keys(n), usable), strict=True)) for n in (names, grown))
    assert all(before[name] == after[name] for name in names[117:])


def test_names_that_are_no_unicode_have_keys_too() -> None:
    assert len(set(sample_keys(["\ud800.png", "\udcff.png", "?.png"]))) == 3
