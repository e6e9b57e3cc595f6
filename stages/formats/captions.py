"""Which captions may be used: a fraction of them, chosen by hash."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from stages.contract.config import ConfigModel

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

#: Added to the seed that holds pairs out, whose choice is then independent of the choice of captions by the same seed;
#: of one seed, the pairs that train_clip holds out are among those that the prior does, or the other way around.
HELD_OUT_SALT = 0x5EED
_MANTISSA_BITS = 53


class CaptionsConfig(ConfigModel):
    """How many of the captions may be used."""

    fraction: float = Field(1.0, ge=0.0, le=1.0, description="share of the captioned images whose captions may be used")
    seed: int = Field(0, description="which captions: another seed is another subset")


def select_captioned(keys: Sequence[str], config: CaptionsConfig) -> "Bool[np.ndarray, ' keys']":
    """Tell for each key whether its caption may be used: u(key) < fraction.

    u(key) is the top 53 bits of SHA-256("<seed>:<key>") as a number in [0, 1). The choice depends on the key alone,
    so it is the same in every shard and run, and a smaller fraction is a subset of a larger one.
    """
    import numpy as np

    return np.fromiter((_uniform(f"{config.seed}:{key}") < config.fraction for key in keys), dtype=bool)


def _uniform(text: str) -> float:
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _MANTISSA_BITS)
    return bits * 2.0**-_MANTISSA_BITS
