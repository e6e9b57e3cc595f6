"""Figures of an evaluation as they are gathered, with their protocols; and what the rows of a set of images share."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stages.contract.measures import Measure, Protocol, protocol_digest
from stages.evaluate.category_labels import Category
from stages.evaluate.distances import Figures
from stages.formats.generated_images import iterate_rows
from stages.storage.artifact import Artifact


@dataclass
class Results:
    """Figures by name with their protocols, and the words to read them by."""

    metrics: dict[str, float] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, figures: Figures, protocol: Protocol, prefix: str = "") -> None:
        """Take in figures of one protocol; how many images each is of is a part of it.

        One that is no finite number (a ratio to a variance of 0) is left out, with a note.

        Raises:
            ValueError: there is a figure of that name already.
        """
        for name, figure in figures.items():
            if prefix + name in self.metrics:
                raise ValueError(f"evaluate: found two figures named {prefix + name}: expected a name for each")
            if not math.isfinite(figure.value):
                self.notes[prefix + name] = f"{figure.value} of {figure.n}: no finite number, so there is no figure"
                continue
            own = {**protocol, "images": str(figure.n)}
            digest = protocol_digest(own)
            self.protocols[digest] = own
            low, high = (None if end is None or not math.isfinite(end) else end for end in (figure.low, figure.high))
            self.metrics[prefix + name] = figure.value
            self.measures[prefix + name] = Measure(figure.value, low, high, figure.n, digest)


@dataclass(frozen=True)
class Prompts:
    """What the rows of a set say together."""

    digest: str
    seed: int
    categories: Mapping[Category, Sequence[int]]
    """Numbers of the images of each category."""


def read_prompts(generated: Artifact, set_name: str) -> Prompts:
    """Read the rows of a set, one at a time."""
    digest, seed, number = hashlib.sha256(), None, 0
    categories: dict[Category, list[int]] = defaultdict(list)
    for row in iterate_rows(generated):
        if row.set != set_name:
            continue
        digest.update(json.dumps([row.prompt, row.scene], sort_keys=True).encode() + b"\n")
        seed = row.seed if seed is None else seed
        for column, value in row.categories.items():
            categories[Category(column, value)].append(number)
        number += 1
    ordered = {category: categories[category] for category in sorted(categories, key=lambda one: one.text)}
    return Prompts(digest.hexdigest()[:16], seed or 0, ordered)
