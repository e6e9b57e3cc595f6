"""Dealing scenes: deterministic, balanced, and no leak between splits."""

from collections import Counter

import pytest

from models.scenes.scene import SPLITS, Scene, make_scenes, split_combinations
from models.scenes.vocabulary import DOMAINS, NUM_COMBINATIONS


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_deterministic_and_prefixes_of_longer_deals(domain, split):
    scenes = make_scenes(300, seed=5, domain=domain, split=split)
    assert scenes == make_scenes(3000, seed=5, domain=domain, split=split)[:300]
    assert scenes != make_scenes(300, seed=6, domain=domain, split=split)


def test_held_out_combinations_never_appear_in_train():
    train = {tuple(s.attributes.values()) for s in make_scenes(5000, split="train")}
    held_out = {tuple(s.attributes.values()) for s in make_scenes(1000, split="heldout")}
    assert train.isdisjoint(held_out)
    assert len(train) + len(held_out) == NUM_COMBINATIONS == len(split_combinations("clip"))


def test_held_out_combinations_are_balanced_over_shapes_and_colors():
    pairs = Counter(combination[:2] for combination in split_combinations("heldout"))
    assert len(pairs) == 48
    assert set(pairs.values()) == {5}
    assert 0.08 < len(split_combinations("heldout")) / NUM_COMBINATIONS < 0.11


def test_no_two_splits_have_the_same_jitter_seed():
    seeds = [{s.jitter_seed for s in make_scenes(3000, seed=1, split=split)} for split in SPLITS]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == 9000


def test_unknown_words_are_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match=r"Scene.shape: found 'blob': allowed are circle, square"):
        Scene("blob", "red", "small", "top", "white")
    with pytest.raises(ValueError, match=r"Scene.background: found 'white': allowed are navy"):
        Scene("star", "red", "small", "top", "white", domain="night")
    with pytest.raises(ValueError, match=r"Scene.split: found 'test'"):
        make_scenes(1, split="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found -1"):
        make_scenes(-1)
