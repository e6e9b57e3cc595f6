"""Statistics of captions and of image sizes, gathered a row at a time."""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.inspection.findings import Findings

MOST_WORDS = 20
_QUANTILES = (("smallest", 0.0), ("10 %", 0.1), ("median", 0.5), ("90 %", 0.9), ("largest", 1.0))


@dataclass
class CaptionStatistics:
    """Captions per image, lengths and words."""

    per_image: collections.Counter[int] = field(default_factory=collections.Counter)
    letters: list[int] = field(default_factory=list)
    words_each: list[int] = field(default_factory=list)
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: set[int] = field(default_factory=set)

    def add(self, captions: Sequence[str]) -> None:
        """Take in the captions of one image."""
        self.per_image[len(captions)] += 1
        for caption in captions:
            words = re.findall(r"\w+", caption.lower())
            self.letters.append(len(caption))
            self.words_each.append(len(words))
            self.words.update(words)
            self.texts.add(hash(caption))

    def show(self, findings: Findings) -> None:
        """Add what was gathered."""
        total = sum(self.per_image.values())
        rows = [(number, count, f"{count / total:.1%}") for number, count in sorted(self.per_image.items())]
        findings.add_table("captions per image", ("captions", "images", "share"), rows)
        if self.letters:
            findings.add_table(
                "caption lengths",
                ("measure", *(name for name, _ in _QUANTILES)),
                [("letters", *quantiles(self.letters)), ("words", *quantiles(self.words_each))],
            )
            findings.add_figures(
                "caption texts", {"captions": len(self.letters), "different": len(self.texts), "words": len(self.words)}
            )
            findings.add_table("most frequent words", ("word", "count"), self.words.most_common(MOST_WORDS))


def quantiles(values: Sequence[float]) -> list[float]:
    """Return smallest, first decile, median, last decile and largest."""
    ordered = sorted(values)
    return [ordered[round(fraction * (len(ordered) - 1))] for _, fraction in _QUANTILES]


def histogram(values: Iterable[int]) -> list[tuple[str, int, str]]:
    """Count by powers of two: range, count, share."""
    bins = collections.Counter(value.bit_length() for value in values)
    total = sum(bins.values())
    return [
        (f"{(1 << bits) >> 1} to {(1 << bits) - 1}", count, f"{count / total:.1%}")
        for bits, count in sorted(bins.items())
    ]
