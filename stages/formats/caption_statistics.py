"""Statistics of captions, gathered an image at a time."""

import collections
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.contract.findings import QUANTILES, Findings, quantiles

MOST_WORDS = 20


@dataclass
class CaptionStatistics:
    """Captions per image, lengths and words."""

    per_image: collections.Counter[int] = field(default_factory=collections.Counter)
    letters: list[int] = field(default_factory=list)
    words_each: list[int] = field(default_factory=list)
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: set[int] = field(default_factory=set)

    def add(self, captions: Sequence[str]) -> None:
        """Count the captions of one image."""
        self.per_image[len(captions)] += 1
        for caption in captions:
            words = re.findall(r"\w+", caption.lower())
            self.letters.append(len(caption))
            self.words_each.append(len(words))
            self.words.update(words)
            self.texts.add(hash(caption))

    def report(self, findings: Findings) -> None:
        """Add the tables."""
        total = sum(self.per_image.values())
        rows = [(number, count, f"{count / total:.1%}") for number, count in sorted(self.per_image.items())]
        findings.add_table("captions per image", ("captions", "images", "fraction"), rows)
        if self.letters:
            findings.add_table(
                "caption lengths",
                ("measure", *QUANTILES),
                [("letters", *quantiles(self.letters)), ("words", *quantiles(self.words_each))],
            )
            findings.add_figures(
                "caption texts", {"captions": len(self.letters), "different": len(self.texts), "words": len(self.words)}
            )
            findings.add_table("most frequent words", ("word", "count"), self.words.most_common(MOST_WORDS))
