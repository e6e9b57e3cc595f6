"""What is known of embeddings: norms, cosines of images and captions, Gaussians, removed samples."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pipeline.inspection.captions import CaptionStatistics, quantiles
from pipeline.inspection.findings import Findings
from pipeline.inspection.shards import add_sheet, evenly
from stages.filter_samples.duplicates import unit_rows
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import load_captions, load_image_rows, load_keys, load_text_rows, shard_rows
from stages.formats.filtered import filter_inputs, read_removed
from stages.formats.gaussians import read_gaussians
from stages.storage.artifact import Artifact

PAIRS = 12
QUERIES = 6
MOST_COMPARED = 4000
BLOCK = 1024
GAUSSIANS_LISTED, GAUSSIANS_SHOWN, EXAMPLES = 32, 12, 6
_QUANTILES = ("smallest", "10 %", "median", "90 %", "largest")
Rows = Float[np.ndarray, "rows embed"]


def inspect_embeddings(artifact: Artifact, shards: Artifact | None, findings: Findings, *, max_shards: int) -> None:
    """Look at the embeddings and captions of some shards."""
    clips = read_clips(artifact)
    blocks = clips.block_dims
    findings.add_table(
        "CLIP models",
        ("model", "dimensions", "digest", "normalised"),
        [(c.reference, c.embed_dim, c.digest[:12], "yes" if c.normalised else "no") for c in clips],
    )
    names = list(shard_rows(artifact))
    looked = evenly(names, max_shards)
    findings.notes.append(f"captions, norms and cosines: of {len(looked)} of {len(names)} shards")
    sample = _Sample(artifact, looked, blocks)
    sample.captions.show(findings)
    norms = [
        (clip.reference, *(f"{value:.4g}" for value in quantiles(values)))
        for clip, values in zip(clips, sample.norms, strict=True)
        if values
    ]
    findings.add_table("norms of image embeddings", ("model", *_QUANTILES), norms)
    if sample.pairs:
        sample.show_pairs(findings, shards)
        sample.show_nearest(findings)


class _Sample:
    """Rows of some shards: norms of all, and of those with a caption its cosine to the image."""

    def __init__(self, artifact: Artifact, names: Sequence[str], blocks: list[int]) -> None:
        self.captions = CaptionStatistics()
        self.norms: list[list[float]] = [[] for _ in blocks]
        self.pairs: list[tuple[float, str, str, str]] = []  # cosine, shard, key, caption
        self._image: list[Rows] = []
        self._text: list[Rows] = []
        for name in names:
            self._read(artifact, name, blocks)

    def _read(self, artifact: Artifact, name: str, blocks: list[int]) -> None:
        image = load_image_rows(artifact, name)
        for norms, part in zip(self.norms, np.split(image, np.cumsum(blocks)[:-1], axis=1), strict=True):
            norms.extend(np.linalg.norm(part.astype(np.float64), axis=1).tolist())
        keys, captions = load_keys(artifact, name), load_captions(artifact, name)
        for found in captions:
            self.captions.add(found)
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

    def show_pairs(self, findings: Findings, shards: Artifact | None) -> None:
        """Add the distribution of the cosines, and the pairs at its ends."""
        cosines = [f"{value:.3f}" for value in quantiles([pair[0] for pair in self.pairs])]
        findings.add_table("cosine of image and its first caption", _QUANTILES, [cosines])
        ordered = sorted(self.pairs, key=lambda pair: (-pair[0], pair[2]))
        for name, title, pairs in (
            ("nearest", "images nearest to their caption", ordered[:PAIRS]),
            ("farthest", "images farthest from their caption", ordered[::-1][:PAIRS]),
        ):
            rows = [(f"{cosine:.3f}", key, caption) for cosine, _, key, caption in pairs]
            findings.add_table(title, ("cosine", "key", "caption"), rows)
            if shards is not None:
                texts = [(shard, key, f"{cosine:.3f} {caption}") for cosine, shard, key, caption in pairs]
                add_sheet(findings, shards, texts, name, title)

    def show_nearest(self, findings: Findings) -> None:
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


def inspect_removed(artifact: Artifact, shards: Artifact | None, findings: Findings, *, max_shards: int) -> None:
    """List samples that filter_samples removed, with images."""
    rows, samples = [], []
    for name in evenly(sorted(artifact.done_units()), max_shards):
        for row in read_removed(artifact, name):
            rows.append((row["key"], row["cause"], f"{row['value']:.4f}", row["duplicate_of"] or ""))
            samples.append((name, row["key"], f"{row['cause']} {row['value']:.3f} {row['duplicate_of'] or ''}"))
    shown = 2 * PAIRS
    findings.add_table("removed (some)", ("key", "cause", "value", "duplicate of"), evenly(rows, shown))
    if shards is not None:
        add_sheet(findings, shards, evenly(samples, shown), "removed", "removed")


def inspect_gaussians(
    artifact: Artifact, embeddings: Artifact | None, kept: Artifact | None, shards: Artifact | None,
    findings: Findings, *, max_shards: int,
) -> None:  # fmt: skip
    """List the Gaussians by occupancy, with the images of some shards that lie nearest to the largest ones' means."""
    fitted = read_gaussians(artifact)
    counts, means, stds = (tensor.numpy() for tensor in (fitted.counts, fitted.means, fitted.stds))
    order = np.argsort(-counts, kind="stable")
    rows = [
        (int(g), int(counts[g]), f"{counts[g] / counts.sum():.2%}", f"{float(stds[g].mean()):.4g}")
        for g in order[:GAUSSIANS_LISTED]
    ]
    findings.add_table(
        f"occupancy of the {len(rows)} largest of {len(counts)} Gaussians",
        ("Gaussian", "embeddings", "share", "mean deviation"),
        rows,
    )
    sizes = dict(zip(_QUANTILES, quantiles(counts.tolist()), strict=True))
    findings.add_figures("members of a Gaussian", sizes | {"empty": int((counts == 0).sum())})
    if embeddings is None or shards is None:
        findings.notes.append("examples: the embeddings or the shards that the Gaussians were fitted on are not here")
        return
    sources = {"embed_clip": embeddings} | ({"filter_samples": kept} if kept is not None else {})
    seen = filter_inputs(sources)["embed_clip"]
    names = evenly(list(shard_rows(seen)), max_shards)
    findings.notes.append(f"examples: the nearest of {len(names)} of {len(shard_rows(seen))} shards")
    chosen = order[: min(GAUSSIANS_SHOWN, int((counts > 0).sum()))]
    nearest = _nearest_members(seen, names, means, chosen)
    samples = [
        (shard, key, f"Gaussian {g}: {counts[g] / counts.sum():.1%}")
        for g in chosen
        for _, shard, key in nearest[int(g)]
    ]
    add_sheet(findings, shards, samples, "gaussians", "images nearest to the means of the largest Gaussians")


def _nearest_members(
    embeddings: Artifact, names: Sequence[str], means: Float[np.ndarray, "gauss embed"], chosen: np.ndarray
) -> dict[int, list[tuple[float, str, str]]]:
    """Return for each chosen Gaussian the members nearest to its mean: squared distance, shard, key."""
    found: dict[int, list[tuple[float, str, str]]] = {int(g): [] for g in chosen}
    squares = (means.astype(np.float64) ** 2).sum(axis=1)
    for name in names:
        rows, keys = load_image_rows(embeddings, name).astype(np.float64), load_keys(embeddings, name)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            distances = squares - 2 * block @ means.astype(np.float64).T + (block**2).sum(axis=1, keepdims=True)
            owner = distances.argmin(axis=1)
            for g, best in found.items():
                here = np.flatnonzero(owner == g)
                best += [(float(distances[row, g]), name, keys[first + row]) for row in here]
                best.sort()
                del best[EXAMPLES:]
    return found
