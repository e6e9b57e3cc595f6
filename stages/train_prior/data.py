"""The pairs that a prior learns from and those that it is judged on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.artifacts import Artifact
from stages.captions import CaptionsConfig, select_captioned
from stages.embeddings import CaptionedRows, load_captioned_rows, shard_rows
from stages.errors import InputFault
from stages.train_prior.config import DiffusionPriorConfig

_HELD_OUT_SALT = 0x5EED  # keeps the choice of held-out pairs independent of the choice of captions


@dataclass(frozen=True)
class Pairs:
    """Image and text embeddings of captioned samples, row by row, float32 on the CPU."""

    image: Float[Tensor, "pairs embed"]
    text: Float[Tensor, "pairs embed"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.image)

    def first(self, count: int) -> "Pairs":
        """Return the first pairs."""
        return Pairs(self.image[:count], self.text[:count])


def load_pairs(config: DiffusionPriorConfig, embeddings: Artifact) -> tuple[Pairs, Pairs]:
    """Return the training pairs and the held-out ones, told apart by the hash of their keys.

    Only the captioned samples that ``captions`` selects are read; two numbers per dimension are held for each, which
    for 15 million pairs of 1536 dimensions is 184 GB: such sizes need more machines or a smaller fraction.

    Raises:
        InputFault: there are too few captioned samples to train on and to judge with.
    """
    parts = list(_captioned(config, embeddings))
    keys = [key for part in parts for key in part.keys]
    _require_captions(config, embeddings, len(keys))
    image = torch.from_numpy(np.concatenate([part.image for part in parts]))
    text = torch.from_numpy(np.concatenate([part.text for part in parts]))
    _require_finite(image, text)
    held_out = torch.from_numpy(_held_out(config, keys))
    if int(held_out.sum()) < 2 or int((~held_out).sum()) < 2:
        raise InputFault(
            f"train_prior.validation.fraction: {config.validation.fraction} of {len(keys)} captioned images holds out "
            f"{int(held_out.sum())}: allowed are at least 2 held out and 2 to train on: "
            "change the fraction, or give more captions"
        )
    return Pairs(image[~held_out], text[~held_out]), Pairs(image[held_out], text[held_out])


def _captioned(config: DiffusionPriorConfig, embeddings: Artifact) -> Iterator[CaptionedRows]:
    for shard in shard_rows(embeddings):
        yield load_captioned_rows(embeddings, shard, config.captions)


def _held_out(config: DiffusionPriorConfig, keys: list[str]) -> np.ndarray:
    choice = CaptionsConfig(fraction=config.validation.fraction, seed=config.seed ^ _HELD_OUT_SALT)
    return select_captioned(keys, choice)


def _require_captions(config: DiffusionPriorConfig, embeddings: Artifact, count: int) -> None:
    if count:
        return
    captioned = sum(int(record["captioned"]) for record in embeddings.done_units().values())
    found = f"found no captioned image to learn from ({captioned} have captions, fraction {config.captions.fraction})"
    remedy = (
        "raise captions.fraction"
        if captioned
        else "name the captions' column (download_shards.source.caption_column), or reuse a trained prior "
        "(`train_prior: null` and reuse.train_prior.config)"
    )
    raise InputFault(f"train_prior.captions: {found}: expected at least 4: {remedy}")


def _require_finite(image: Tensor, text: Tensor) -> None:
    bad = int((~(image.isfinite().all(1) & text.isfinite().all(1))).sum())
    if bad:
        raise InputFault(
            f"train_prior: {bad} of {len(image)} pairs hold numbers that are not finite: expected finite embeddings: "
            "embed again with embed_clip.storage: float32"
        )
