"""Read the latents and the codes that encode_latents made, by key, without loading a shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Shaped

from stages.contract.errors import InputFault
from stages.storage.artifact import Artifact

IDENTITY = "latents.json"
KEPT_SHARDS = 256
Kind = Literal["latents", "codes"]


@dataclass(frozen=True)
class LatentsIdentity:
    """What the latents are, and how a diffusion model is to scale them: x_0 = scale_factor * (z - shift)."""

    kind: str
    """autoencoder or stable_diffusion."""
    shape: tuple[int, int, int]
    """Channels, rows and columns."""
    resolution: int
    """Side of the images in pixels."""
    num_codes: int | None
    """Size of the codebook, where there are codes beside the latents."""
    scale_factor: float
    """Of kind autoencoder: 1 / deviation of all latents; of kind stable_diffusion: the checkpoint's own."""
    shift: float
    mean: float
    """Measured over all latents, as is the deviation."""
    std: float
    encoder: dict[str, Any]
    """Reference, and SHA-256 of the weights."""


def latents_identity(latents: Artifact) -> LatentsIdentity:
    """Return what encode_latents says of its latents."""
    content = latents.read_json(IDENTITY)
    return LatentsIdentity(**{**content, "shape": tuple(content["shape"])})


class LatentRows:
    """Latents [channel, row, column] in half precision, or codes [row, column], by (shard, key), still on disk."""

    def __init__(self, artifact: Artifact, kind: Kind) -> None:
        """Look at nothing yet; of the shards last used, the keys are kept."""
        self._artifact, self._kind = artifact, kind
        self._shard = lru_cache(maxsize=KEPT_SHARDS)(self._open)

    def read(self, places: Sequence[tuple[str, str]]) -> Shaped[np.ndarray, "rows ..."]:
        """Return the rows at the (shard, key) places, in their order.

        Raises:
            InputFault: an image was not encoded.
        """
        return np.stack([self._one(shard, key) for shard, key in places])

    def _one(self, shard: str, key: str) -> Shaped[np.ndarray, "..."]:
        rows, row_of = self._shard(shard)
        if key not in row_of:
            raise InputFault(
                f"encode_latents: shard {shard} has no {self._kind} of key {key!r} ({self._artifact.uri}): expected "
                "those of every embedded image: run encode_latents anew on the shards of this run"
            )
        found: np.ndarray = rows[row_of[key]]
        return found

    def _open(self, shard: str) -> tuple[np.ndarray, dict[str, int]]:
        path = self._artifact.local(f"{self._kind}/{self._kind}_{shard}.npy")
        table = pq.read_table(self._artifact.local(f"metadata/metadata_{shard}.parquet"), columns=["key"])
        keys = table.column("key").to_pylist()
        return np.load(path, mmap_mode="r", allow_pickle=False), {key: row for row, key in enumerate(keys)}
