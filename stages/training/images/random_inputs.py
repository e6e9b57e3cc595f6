"""The random numbers of a training loss, as a model's spec declares them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.decoders.spec import RandomInput
from models.noise import SeededNoise
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart


def make_random_inputs(wanted: Mapping[str, RandomInput], part: BatchPart, stream: SeededNoise, seed: int) -> Batch:
    """Return the numbers for the samples of a part; the stream holds one source of noise for each of them."""

    def make(random_input: RandomInput) -> Tensor:
        match random_input.source:
            case "normal":
                return stream.normal(random_input.shape)
            case "uniform":
                return stream.uniform(random_input.shape)
            case purpose:
                return torch.from_numpy(sample_uniform(seed, part, purpose)).float()

    return {name: make(random_input) for name, random_input in wanted.items()}
