"""What ``corgi inspect`` finds of embeddings: norms, captions, and how images and captions agree."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stages.contract.findings import QUANTILES, Findings, InspectionContext, evenly, quantiles
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import (
    load_captions,
    load_image_rows,
    load_keys,
    load_text_rows,
    shard_rows,
    unit_rows,
)
from stages.formats.pseudo_captions import Captioner
from stages.formats.sample_sheets import CaptionStatistics, add_sheet
from stages.storage.artifact import Artifact

PAIRS = 12
QUERIES = 6
MOST_COMPARED = 4000
Rows = Float[np.ndarray, "rows embed"]


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add the encoders, and what the embeddings and captions of some shards say."""
    clips = read_clips(artifact)
    blocks = clips.block_dims
    findings.add_table(
        "CLIP models",
        ("model", "dimensions", "digest", "normalised"),
        [(c.reference, c.embed_dim, c.digest[:12], "yes" if c.normalised else "no") for c in clips],
    )
    if not clips.is_one_space:
        findings.notes.append(
            "images are embedded by another encoder than texts: no cosine of an image and a caption means anything"
        )
    if artifact.exists(Captioner.file):
        findings.notes.append(f"pseudo-captions beside the human ones: by {Captioner.of(artifact)}, not in the tables")
    names = list(shard_rows(artifact))
    read = evenly(names, context.max_shards)
    findings.notes.append(f"captions, norms and cosines: of {len(read)} of {len(names)} shards")
    sample = _Sample(artifact, read, blocks, compares=clips.is_one_space)
    sample.captions.report(findings)
    norms = [
        (clip.reference, *(f"{value:.4g}" for value in quantiles(values)))
        for clip, values in zip(clips.of_images, sample.norms, strict=True)
        if values
    ]
    findings.add_table("norms of image embeddings", ("model", *QUANTILES), norms)
    if sample.pairs:
        sample.report_pairs(findings, context.input_of("download_shards"))
        sample.report_nearest(findings)


class _Sample:
    """Rows of some shards: norms of all, and of those with a caption its cosine to the image."""

    def __init__(self, artifact: Artifact, names: Sequence[str], blocks: list[int], *, compares: bool) -> None:
        self.captions = CaptionStatistics()
        self.norms: list[list[float]] = [[] for _ in blocks]
        self.pairs: list[tuple[float, str, str, str]] = []  # cosine, shard, key, caption
        self._image: list[Rows] = []
        self._text: list[Rows] = []
        self._compares = compares
        for name in names:
            self._read(artifact, name, blocks)

    def _read(self, artifact: Artifact, name: str, blocks: list[int]) -> None:
        image = load_image_rows(artifact, name)
        for norms, part in zip(self.norms, np.split(image, np.cumsum(blocks)[:-1], axis=1), strict=True):
            norms.extend(np.linalg.norm(part.astype(np.float64), axis=1).tolist())
        keys, captions = load_keys(artifact, name), load_captions(artifact, name)
        for found in captions:
            self.captions.add(found)
        if not self._compares:
            return
        rows = np.flatnonzero([bool(found) for found in captions])
        units = unit_rows(image[rows], blocks)
        texts = unit_rows(load_text_rows(artifact, name)[rows], blocks)
        cosines = (units * texts).sum(axis=1)
        self.pairs += [
            (float(cosine), name, keys[row], captions[row][0]) for cosine, row in zip(cosines, rows, strict=True)
        ]
        room = max(0, MOST_COMPARED - sum(map(len, self._image)))
        self._image.append(units[:room])
        self._text.append(texts[:room])

    def report_pairs(self, findings: Findings, shards: Artifact | None) -> None:
        """Add the distribution of the cosines, and the pairs at its ends."""
        cosines = [f"{value:.3f}" for value in quantiles([pair[0] for pair in self.pairs])]
        findings.add_table("cosine of image and its first caption", tuple(QUANTILES), [cosines])
        ordered = sorted(self.pairs, key=lambda pair: (-pair[0], pair[2]))
        for title, pairs in (
            ("images nearest to their caption", ordered[:PAIRS]),
            ("images farthest from their caption", ordered[::-1][:PAIRS]),
        ):
            rows = [(f"{cosine:.3f}", key, caption) for cosine, _, key, caption in pairs]
            findings.add_table(title, ("cosine", "key", "caption"), rows)
            if shards is not None:
                texts = [(shard, key, f"{cosine:.3f} {caption}") for cosine, shard, key, caption in pairs]
                add_sheet(findings, shards, texts, title)

    def report_nearest(self, findings: Findings) -> None:
        """Add for some images which captions of the sample are nearest and farthest."""
        image, text = np.concatenate(self._image), np.concatenate(self._text)
        rows = []
        for number in np.unique(np.linspace(0, len(image) - 1, QUERIES).round().astype(int)):
            cosines = text @ image[number]
            _, _, key, caption = self.pairs[number]
            for kind, at in (("nearest", int(cosines.argmax())), ("farthest", int(cosines.argmin()))):
                rows.append((key, caption, kind, f"{cosines[at]:.3f}", self.pairs[at][3]))
        findings.add_table(
            f"captions nearest and farthest to an image, of {len(text)}",
            ("key", "its caption", "which", "cosine", "caption found"),
            rows,
        )
