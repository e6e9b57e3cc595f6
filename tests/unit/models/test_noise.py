"""Noise that belongs to its seed."""

import torch

from models.noise import SeededNoise, seeded_noise


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
