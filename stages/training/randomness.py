"""Random numbers of training that depend on (seed, position of the sample) only, never on workers or restarts."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.decoders.spec import RandomInput
from models.noise import SeededNoise
from stages.training.task import Batch, BatchPart

_NAMES = {
    "noise": 0, "times": 1, "dropout": 2, "crop": 3, "caption": 4,
    "flip": 5, "crop_side": 6, "crop_left": 7, "crop_top": 8, "which_caption": 9, "bucket_left": 10, "bucket_top": 11,
}  # fmt: skip


def sample_seeds(seed: int, part: BatchPart) -> list[int]:
    """Return a seed for the noise of each sample of the part."""
    return [_mixed(seed, "noise", position) for position in part.positions]


def sample_uniform(seed: int, part: BatchPart, purpose: str) -> np.ndarray:
    """Return a uniform number in [0, 1) for each sample; ``purpose`` is one of those named above.

    Numbers of different purposes are independent.
    """
    return np.array([_mixed(seed, purpose, p) for p in part.positions], dtype=np.float64) / 2.0**63


def make_random_inputs(wanted: Mapping[str, RandomInput], part: BatchPart, stream: SeededNoise, seed: int) -> Batch:
    """Return the numbers that a model's spec declares; the stream holds one source of noise for each sample."""

    def make(random_input: RandomInput) -> Tensor:
        match random_input.source:
            case "normal":
                return stream.normal(random_input.shape)
            case "uniform":
                return stream.uniform(random_input.shape)
            case purpose:
                return torch.from_numpy(sample_uniform(seed, part, purpose)).float()

    return {name: make(random_input) for name, random_input in wanted.items()}


def _mixed(seed: int, purpose: str, position: int) -> int:
    """Return 63 well mixed bits."""
    return int(
        np.random.SeedSequence([seed, _NAMES[purpose], position]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
