"""Random numbers of training that depend on (seed, position of the sample) only, never on workers or restarts.

A task turns the seeds into noise with :mod:`models.noise` and puts it into the batch.
"""

import numpy as np

from stages.training.task import BatchPart

_NAMES = {"noise": 0, "times": 1, "dropout": 2, "crop": 3, "caption": 4}


def sample_seeds(seed: int, part: BatchPart) -> list[int]:
    """Return a seed for the noise of each sample of the part."""
    return [_mixed(seed, "noise", position) for position in part.positions]


def sample_uniform(seed: int, part: BatchPart, purpose: str) -> np.ndarray:
    """Return a uniform number in [0, 1) for each sample; ``purpose`` is times, dropout, crop or caption.

    Numbers of different purposes are independent.
    """
    return np.array([_mixed(seed, purpose, p) for p in part.positions], dtype=np.float64) / 2.0**63


def _mixed(seed: int, purpose: str, position: int) -> int:
    """Return 63 well mixed bits."""
    return int(
        np.random.SeedSequence([seed, _NAMES[purpose], position]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
