"""Which captions may be used: a fraction of them, chosen by hash."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from stages.contract.config import ConfigModel
from stages.formats.samples import uniform_number

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class CaptionsConfig(ConfigModel):
    """How many of the captions may be used."""

    fraction: float = Field(1.0, ge=0.0, le=1.0, description="share of the captioned images whose captions may be used")
    seed: int = Field(0, description="which captions: another seed is another subset")


def select_captioned(keys: Sequence[str], config: CaptionsConfig) -> "Bool[np.ndarray, ' keys']":
    """Tell for each key whether its caption may be used: u(key) < fraction (:func:`uniform_number`).

    The choice depends on the key alone, so it is the same in every shard and run, and a smaller fraction is a subset of
    a larger one.
    """
    import numpy as np

    return np.fromiter((uniform_number(key, config.seed) < config.fraction for key in keys), dtype=bool)
