"""Noise that belongs to its seed."""

import torch

from models.noise import SeededNoise, folded_seed, seeded_noise


def test_a_seed_gives_the_numbers_of_torchs_own_generator() -> None:
    """Whatever the batch; saved results depend on these numbers."""
    stream = SeededNoise([3, 2**62])
    for row, seed in enumerate((3, 2**62)):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randn(4, 5, generator=generator), torch.rand(2, generator=generator, dtype=torch.float64)
        stream = SeededNoise([3, 2**62])
        assert torch.equal(stream.normal((4, 5))[row], expected[0])
        assert torch.equal(stream.uniform((2,), dtype=torch.float64)[row], expected[1])


def test_streams_go_on() -> None:
    one, other = SeededNoise([5, 6, 7]), SeededNoise([7, 5])
    random_inputs = []
    for _ in range(3):
        random_inputs.append(one.normal((4,)))
        assert torch.equal(random_inputs[-1][[2, 0]], other.normal((4,)))
    assert not torch.equal(random_inputs[0], random_inputs[1])


def test_no_seeds_give_no_noise() -> None:
    assert seeded_noise([], (3, 2)).shape == (0, 3, 2)


def test_every_bit_of_a_folded_seed_counts_and_small_ones_stay() -> None:
    small = [0, 1, 5, 2**31 - 1, 2**31, 2**32 - 1]
    assert [folded_seed(seed) for seed in small] == small
    large = [5 + 2**bit for bit in range(32, 200)] + [5 + high * 2**32 for high in range(1, 2000)]
    folded = [folded_seed(seed) for seed in large]
    assert all(0 <= seed < 2**32 and seed % 2 for seed in folded), "odd ones stay odd"
    assert len({5, *folded}) == len(set(large)) + 1
    assert folded_seed(2**32 + 6) == folded_seed(2**32 + 7) - 1
