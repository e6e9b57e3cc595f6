"""The held-out samples that a trained model fits least: their losses, in its artifact.

A decoder's loss is that of its training; a prior's is 1 - cosine of what it samples for the first caption, with the
most sampling steps, and the true embedding.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from stages.contract.documents import Document

MOST = 48
"""Samples that are kept."""


class SampleLoss(BaseModel):
    """A sample and its loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: str
    key: str
    loss: FiniteFloat


class WorstSamples(Document):
    """The samples of the largest loss by the weights that are kept, the largest first."""

    file = "worst_samples.json"

    step: NonNegativeInt
    """Steps after which the weights were that are kept."""
    rounds: int = Field(ge=1)
    """How often each sample's loss was computed, with other noise each time; it is the mean of these."""
    validated: NonNegativeInt
    """Held-out samples whose losses were compared."""
    mean_loss: FiniteFloat | None
    """Of all of them whose loss is finite; None: there are none."""
    not_finite: NonNegativeInt = 0
    """Samples whose loss is not finite, which are not listed."""
    samples: tuple[SampleLoss, ...] = Field(max_length=MOST)

    @classmethod
    def among(
        cls, samples: Sequence[tuple[str, str]], losses: Float[np.ndarray, " samples"], *, step: int, rounds: int
    ) -> Self:
        """Return those of the largest loss among samples, given by shard and key; of equal ones, the first."""
        finite = np.flatnonzero(np.isfinite(losses))
        worst = finite[np.argsort(-losses[finite], kind="stable")][:MOST]
        return cls(
            step=step,
            rounds=rounds,
            validated=len(losses),
            mean_loss=float(losses[finite].mean()) if len(finite) else None,
            not_finite=len(losses) - len(finite),
            samples=tuple(
                SampleLoss(shard=samples[at][0], key=samples[at][1], loss=float(losses[at])) for at in worst.tolist()
            ),
        )
