"""The pairs that a prior learns from and those that it is evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.priors.text import TextFeatures, TextStates
from stages.contract.errors import InputFault
from stages.formats.captions import HELD_OUT_SALT, CaptionsConfig, select_captioned
from stages.formats.embeddings.layout import read_text_encoders
from stages.formats.embeddings.reader import (
    CaptionedRows,
    ShardStates,
    count_captioned,
    load_captioned_rows,
    load_image_rows,
    load_keys,
    open_text_states,
    shard_rows,
)
from stages.storage.artifact import Artifact
from stages.train_prior.config import PriorConfig


@dataclass(frozen=True)
class CaptionStates:
    """Where the token states of each caption lie on disk, by text encoder and shard; only what is taken is read."""

    files: Mapping[str, Sequence[ShardStates]]
    shard: Int[Tensor, " captions"]
    row: Int[Tensor, " captions"]

    def select(self, chosen: Tensor) -> "CaptionStates":
        """Return some of the captions, by mask or by number."""
        return CaptionStates(self.files, self.shard[chosen], self.row[chosen])

    def load(self) -> dict[str, TextStates]:
        """Read the states of all the captions, in the dtype they are stored in, padded by zeros to the longest."""
        indices = list(zip(self.shard.tolist(), self.row.tolist(), strict=True))
        return {
            name: _padded(name, [shards[shard].of(row) for shard, row in indices])
            for name, shards in self.files.items()
        }


def _padded(name: str, captions: Sequence[np.ndarray]) -> TextStates:
    lengths = [len(caption) for caption in captions]
    first = captions[0]
    values = np.zeros((len(captions), max(lengths), first.shape[1]), dtype=first.dtype)
    for number, caption in enumerate(captions):
        values[number, : len(caption)] = caption
    states = TextStates(torch.from_numpy(values), torch.tensor(lengths))
    if not states.values.isfinite().all():
        raise InputFault(
            f"train_prior: text states of {name} hold numbers that are not finite: "
            "embed again with embed_clip.storage: float32"
        )
    return states


@dataclass(frozen=True)
class Pairs:
    """Images with their captions: float32 embeddings on the CPU, and token states that stay on disk.

    The captions of image i are ``text[starts[i]:starts[i + 1]]``.
    """

    image: Float[Tensor, "images embed"]
    text: Float[Tensor, "captions embed"]
    starts: Int[Tensor, " images+1"]
    states: CaptionStates

    def __len__(self) -> int:
        return len(self.image)

    def first(self, count: int) -> "Pairs":
        """Return the first images with all their captions."""
        return self._select(torch.arange(len(self)) < count)

    def take(
        self, rows: Int[Tensor, " batch"], choice: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch embed"], TextFeatures]:
        """Return the images of these rows, each with one of its captions: number floor(choice x captions).

        ``choice`` is in [0, 1): uniform numbers give every caption of an image the same chance, 0 gives the first.
        """
        first, after = self.starts[rows], self.starts[rows + 1]
        caption = torch.minimum(first + (choice.double() * (after - first)).long(), after - 1)
        return self.image[rows], TextFeatures(self.text[caption], self.states.select(caption).load())

    def _select(self, chosen: Bool[Tensor, " images"]) -> "Pairs":
        counts = self.starts.diff()
        captions = chosen.repeat_interleave(counts)
        return Pairs(self.image[chosen], self.text[captions], _starts(counts[chosen]), self.states.select(captions))

    def split(self, chosen: Bool[Tensor, " images"]) -> tuple["Pairs", "Pairs"]:
        """Return the other images, then the chosen ones."""
        return self._select(~chosen), self._select(chosen)


def load_pairs(config: PriorConfig, embeddings: Artifact, text_states: Sequence[str] = ()) -> tuple[Pairs, Pairs]:
    """Return the training pairs and the held-out ones, separated by the hash of their images' keys.

    Only the captioned samples that ``captions`` selects are read; two numbers per dimension are held for each, which
    for 15 million pairs of 1536 dimensions is 184 GB: such sizes need more machines or a smaller fraction.
    ``text_states`` names the text encoders (t5, clip) whose token states come with the captions.
    """
    widths = _widths(embeddings, text_states)
    shards = list(shard_rows(embeddings))
    parts = [load_captioned_rows(embeddings, shard, config.captions) for shard in shards]
    keys = [key for part in parts for key in part.keys]
    _require_captions(config, embeddings, len(keys))
    _require_one_width(shards, parts)
    files = {
        name: [open_text_states(embeddings, shard, name, width=width) for shard in shards]
        for name, width in widths.items()
    }
    pairs = _join(parts, files)
    _require_finite(pairs)
    held_out = torch.from_numpy(_held_out(config, keys))
    if int(held_out.sum()) < 2 or int((~held_out).sum()) < 2:
        raise InputFault(
            f"train_prior.validation.fraction: {config.validation.fraction} of {len(keys)} captioned images holds out "
            f"{int(held_out.sum())}: allowed are at least 2 held out and 2 to train on: "
            "change the fraction, or give more captions"
        )
    return pairs.split(held_out)


def load_images(config: PriorConfig, embeddings: Artifact) -> tuple[Pairs, Pairs]:
    """Return all images, captioned or not, to train on, and the held-out ones, to whom those of held-out pairs belong.

    Each image stands for its own caption: what a process takes of a caption (:meth:`TextFeatures.missing`) is then the
    Gaussian that the image belongs to. One number per dimension is held for each image.
    """
    rows = {shard: load_image_rows(embeddings, shard) for shard in shard_rows(embeddings)}
    keys = [key for shard in rows for key in load_keys(embeddings, shard)]
    image = torch.from_numpy(np.concatenate(list(rows.values())))
    held_out = torch.from_numpy(_held_out(config, keys))
    if int(held_out.sum()) < 2 or int((~held_out).sum()) < 2:
        raise InputFault(
            f"train_prior.validation.fraction: {config.validation.fraction} of {len(keys)} images holds out "
            f"{int(held_out.sum())}: allowed are at least 2 held out and 2 to train on: "
            "change the fraction, or give more images"
        )
    number = torch.arange(len(image) + 1)
    images = Pairs(image, image, number, CaptionStates({}, number[:-1], number[:-1]))
    return images.split(held_out)


def _widths(embeddings: Artifact, text_states: Sequence[str]) -> dict[str, int]:
    """Return the width of each kind of states that is asked for."""
    there = read_text_encoders(embeddings)
    missing = [name for name in text_states if name not in there]
    if missing:
        raise InputFault(
            f"train_prior.text_states: asks for {' and '.join(missing)}, but the embeddings ({embeddings.uri}) hold "
            f"text states of {' and '.join(there) or 'no encoder'}: set embed_clip.text_states.{missing[0]}, "
            "or do not ask for them"
        )
    return {name: there[name].width for name in text_states}


def _join(parts: Sequence[CaptionedRows], files: Mapping[str, Sequence[ShardStates]]) -> Pairs:
    counts = np.concatenate([part.num_captions for part in parts])
    shard = np.repeat(np.arange(len(parts)), [len(part.text) for part in parts])
    row = np.concatenate([part.state_rows for part in parts])
    return Pairs(
        torch.from_numpy(np.concatenate([part.image for part in parts])),
        torch.from_numpy(np.concatenate([part.text for part in parts])),
        _starts(torch.from_numpy(counts)),
        CaptionStates(files, torch.from_numpy(shard), torch.from_numpy(row)),
    )


def _starts(counts: Int[Tensor, " images"]) -> Int[Tensor, " images+1"]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _held_out(config: PriorConfig, keys: list[str]) -> np.ndarray:
    choice = CaptionsConfig(fraction=config.validation.fraction, seed=config.seed ^ HELD_OUT_SALT)
    return select_captioned(keys, choice)


def _require_captions(config: PriorConfig, embeddings: Artifact, count: int) -> None:
    if count:
        return
    captioned = count_captioned(embeddings)
    found = f"found no captioned image to learn from ({captioned} have captions, fraction {config.captions.fraction})"
    remedy = (
        "raise captions.fraction"
        if captioned
        else "name the captions' column (download_shards.source.caption_column), or reuse a trained prior "
        "(`train_prior: null` and reuse.train_prior.config)"
    )
    raise InputFault(f"train_prior.captions: {found}: expected at least 4: {remedy}")


def _require_one_width(shards: Sequence[str], parts: Sequence[CaptionedRows]) -> None:
    width = parts[0].image.shape[1]
    for shard, part in zip(shards, parts, strict=True):
        if part.image.shape[1] != width:
            raise InputFault(
                f"train_prior: the embeddings of shard {shards[0]} have {width} dimensions, but those of shard {shard} "
                f"{part.image.shape[1]}: expected one width: embed all shards with the same clip.models"
            )


def _require_finite(pairs: Pairs) -> None:
    for name, rows in (("image", pairs.image), ("text", pairs.text)):
        bad = int((~rows.norm(dim=1).isfinite()).sum())
        if bad:
            raise InputFault(
                f"train_prior: {bad} of {len(rows)} {name} embeddings hold numbers that are not finite, or "
                "too large for their length in float32: expected finite embeddings: "
                "embed again with embed_clip.storage: float32"
            )
