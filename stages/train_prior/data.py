"""The pairs that a prior learns from and those that it is evaluated on."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cluster.rank_link import getting_on
from models.priors.text import TextFeatures, TextStates
from models.related import groups_of_same, joined_groups
from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, choose_captions, select_captioned
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
from stages.formats.splits import SplitRecord
from stages.storage.artifact import Artifact
from stages.train_prior.config import PriorConfig
from stages.training.split_rows import SplitRows

_LEAST = 2  # pairs on either side of the split


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

    The captions of image i are ``text[starts[i]:starts[i + 1]]``; the first ``num_human[i]`` of them are human.
    """

    image: Float[Tensor, "images embed"]
    text: Float[Tensor, "captions text"]
    starts: Int[Tensor, " images+1"]
    states: CaptionStates
    num_human: Int[Tensor, " images"] | None = None
    """None: all of them."""
    human_fraction: float = 1.0
    """The chance of a human caption for an image that has both kinds."""

    def __len__(self) -> int:
        return len(self.image)

    def take(
        self, rows: Int[Tensor, " batch"], choice: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch embed"], TextFeatures]:
        """Return the images of these rows, each with one of its captions (:func:`choose_captions`).

        ``choice`` is in [0, 1): uniform numbers give every caption of a kind the same chance, 0 gives the first.
        """
        caption = self._captions_of(rows, choice)
        return self.image[rows], TextFeatures(self.text[caption], self.states.select(caption).load())

    def _captions_of(self, rows: Int[Tensor, " batch"], choice: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        count = self.starts.diff()[rows]
        human = count if self.num_human is None else self.num_human[rows]
        chosen = choose_captions(
            choice.double().numpy(), human.numpy(), (count - human).numpy(), human_fraction=self.human_fraction
        )
        return self.starts[rows] + torch.from_numpy(chosen)

    def image_of_each_caption(self) -> Float[Tensor, "captions embed"]:
        """Return the image embedding of each caption, in the order of the captions."""
        return self.image.repeat_interleave(self.starts.diff(), dim=0)

    def first_are_human(self) -> list[bool]:
        """Tell of each image whether the caption that stands for it where none is chosen at random is a human one."""
        rows = torch.arange(len(self))
        number = self._captions_of(rows, torch.zeros(len(self))) - self.starts[:-1]
        found: list[bool] = (number < (self.starts.diff() if self.num_human is None else self.num_human)).tolist()
        return found

    def related(self) -> Int[Tensor, " images"]:
        """Return the groups of images that have one first caption, or are copies of one another."""
        captions = self._captions_of(torch.arange(len(self)), torch.zeros(len(self)))
        return joined_groups(groups_of_same(self.text[captions]), groups_of_same(self.image))

    def select(self, chosen: Bool[Tensor, " images"]) -> "Pairs":
        """Return some of the images with all their captions."""
        counts = self.starts.diff()
        captions = chosen.repeat_interleave(counts)
        human = None if self.num_human is None else self.num_human[chosen]
        return replace(
            self,
            image=self.image[chosen],
            text=self.text[captions],
            starts=_starts(counts[chosen]),
            states=self.states.select(captions),
            num_human=human,
        )

    def of_human(self) -> "Pairs":
        """Return the images that have human captions, with these alone."""
        assert self.num_human is not None
        counts = self.starts.diff()
        number = torch.arange(len(self.text)) - self.starts[:-1].repeat_interleave(counts)
        human = number < self.num_human.repeat_interleave(counts)
        found = self.num_human > 0
        return Pairs(self.image[found], self.text[human], _starts(self.num_human[found]), self.states.select(human))


@dataclass(frozen=True)
class Divided:
    """Images or pairs by the experiment's split."""

    train: Pairs
    held_out: Pairs
    """Those to validate on, at most ``validation.max_pairs``: the ones with the lowest numbers by hash."""
    record: SplitRecord
    held_out_keys: frozenset[str]
    held_out_samples: tuple[tuple[str, str], ...]
    """Shard and key of each pair of ``held_out``."""
    num_held_out: int
    """Those that there are to validate on."""
    human_images: int
    """Images that have human captions which may be used, in all parts; those with pseudo-captions that are read."""
    pseudo_images: int
    on_pseudo: bool
    """Whether these have pseudo-captions, as fewer than two have human ones."""


@dataclass(frozen=True)
class PairCounts:
    """What a stage says of its pairs: numbers, and what is to be known of them in words."""

    counts: Mapping[str, int]
    notes: Mapping[str, str] = field(default_factory=dict)


def load_pairs(config: PriorConfig, embeddings: Artifact, text_states: Sequence[str] = ()) -> Divided:
    """Return the pairs, divided by the keys of their images.

    Only the captioned samples that ``captions`` selects are read (all with ``validation.all_captions``); two numbers
    per dimension are held for each, which for 15 million pairs of 1536 dimensions is 184 GB: such sizes need more
    machines or a smaller fraction.
    ``text_states`` names the text encoders (t5, clip) whose token states come with the captions.
    """
    widths = _widths(embeddings, text_states)
    shards = list(shard_rows(embeddings))
    read = config.captions
    if config.validation.all_captions:
        read = read.model_copy(update={"fraction": 1.0})
    parts = [load_captioned_rows(embeddings, shard, read) for shard in getting_on(shards)]
    _require_captions(config, embeddings, sum(len(part.keys) for part in parts))
    _require_one_width(shards, parts)
    files = {
        name: [open_text_states(embeddings, shard, name, width=width) for shard in getting_on(shards)]
        for name, width in widths.items()
    }
    pairs = _join(parts, files, config.captions)
    _require_finite(pairs)
    keys = {shard: part.keys for shard, part in zip(shards, parts, strict=True)}
    usable = None
    if config.validation.all_captions:
        usable = torch.from_numpy(np.concatenate([select_captioned(part.keys, config.captions) for part in parts]))
    return _divide(config, pairs, keys, "captioned images", usable=usable)


def load_images(config: PriorConfig, embeddings: Artifact, held_out_keys: Collection[str] = ()) -> Divided:
    """Return all images, captioned or not, divided by their keys.

    Of ``held_out_keys``, on which pairs are validated, none is trained on. Each image stands for its own caption: what
    a process takes of a caption (:meth:`TextFeatures.missing`) is then the Gaussian that the image belongs to. One
    number per dimension is held for each image.
    """
    shards = list(shard_rows(embeddings))
    rows = [load_image_rows(embeddings, shard) for shard in getting_on(shards)]
    keys = {shard: load_keys(embeddings, shard) for shard in getting_on(shards)}
    image = torch.from_numpy(np.concatenate(rows))
    number = torch.arange(len(image) + 1)
    images = Pairs(image, image, number, CaptionStates({}, number[:-1], number[:-1]))
    return _divide(config, images, keys, "images", held_out_keys=held_out_keys)


def _divide(
    config: PriorConfig,
    pairs: Pairs,
    keys: Mapping[str, Sequence[str]],
    what: str,
    *,
    held_out_keys: Collection[str] = (),
    usable: Bool[Tensor, " images"] | None = None,
) -> Divided:
    """Divide pairs, whose keys are given by shard; none that is not ``usable`` is trained on (None: all are)."""
    splits = SplitRows(list(keys.values()))
    record = splits.divide(config.split, least=_LEAST)
    starts = np.cumsum([0, *map(len, keys.values())])
    validation = torch.from_numpy(starts[splits.validation[:, 0]] + splits.validation[:, 1])
    human = validation if pairs.num_human is None else validation[pairs.num_human[validation] > 0]
    on_pseudo = len(human) < _LEAST <= len(validation)
    validation = validation if on_pseudo else human
    held_out = torch.zeros(len(pairs), dtype=torch.bool)
    held_out[validation[: config.validation.max_pairs]] = True
    train = torch.from_numpy(splits.is_train())
    if usable is None:
        usable = torch.ones(len(pairs), dtype=torch.bool)
    else:
        train &= usable
        record = record.model_copy(update={"train_images": int(train.sum())})
    if pairs.human_fraction == 0 and pairs.num_human is not None:  # human captions are left out of training
        train &= pairs.starts.diff() > pairs.num_human
    if held_out_keys:
        train &= torch.tensor([key not in held_out_keys for shard in keys.values() for key in shard])
    if int(held_out.sum()) < _LEAST or int(train.sum()) < _LEAST:
        raise InputFault(
            f"train_prior: of {len(pairs)} {what} the split puts {int(held_out.sum())} aside to validate on, and "
            f"leaves {int(train.sum())} to train on: allowed are at least {_LEAST} of each: change split.validation or "
            f"split.test, or give more {what}"
        )
    validated = pairs.select(held_out)
    return Divided(
        pairs.select(train),
        validated if pairs.num_human is None or on_pseudo else validated.of_human(),
        record,
        frozenset(splits.validation_keys),
        tuple(sample for sample, is_held_out in zip(_samples(keys), held_out.tolist(), strict=True) if is_held_out),
        len(validation),
        human_images=int(usable.sum()) if pairs.num_human is None else int((pairs.num_human > 0).sum()),
        pseudo_images=0 if pairs.num_human is None else int((pairs.starts.diff() > pairs.num_human).sum()),
        on_pseudo=on_pseudo,
    )


def _samples(keys: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    return ((shard, key) for shard, of_shard in keys.items() for key in of_shard)


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


def _join(
    parts: Sequence[CaptionedRows], files: Mapping[str, Sequence[ShardStates]], captions: CaptionsConfig
) -> Pairs:
    counts = np.concatenate([part.num_captions for part in parts])
    shard = np.repeat(np.arange(len(parts)), [len(part.text) for part in parts])
    row = np.concatenate([part.state_rows for part in parts])
    return Pairs(
        torch.from_numpy(np.concatenate([part.image for part in parts])),
        torch.from_numpy(np.concatenate([part.text for part in parts])),
        _starts(torch.from_numpy(counts)),
        CaptionStates(files, torch.from_numpy(shard), torch.from_numpy(row)),
        torch.from_numpy(np.concatenate([part.num_human for part in parts])) if captions.reads_pseudo else None,
        captions.human_fraction,
    )


def _starts(counts: Int[Tensor, " images"]) -> Int[Tensor, " images+1"]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


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
