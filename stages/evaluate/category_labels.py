"""Names of categories within those of metrics, where MLflow takes letters, digits, _, -, ., spaces and /."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_ODD = re.compile(r"[^\w. -]+")  # letters and digits are those of any script, here as in MLflow's own rule
_LONGEST_PART = 90  # characters of column and value each: a whole metric name has 250 at most
_DIGEST_LENGTH = 8


class Category(NamedTuple):
    """A value of a column of the prompts' file; a column ``a/b`` may stand beside a column ``a``."""

    column: str
    value: str

    @property
    def text(self) -> str:
        """What it is called in protocols: <column>/<value>, the column in quotes where it has a slash."""
        return f"{json.dumps(self.column) if '/' in self.column else self.column}/{self.value}"


def category_labels(categories: Iterable[Category]) -> dict[Category, str]:
    """Return a label ``<column>/<value>`` for each category, no two alike.

    Where several would be alike (``A/B`` and ``A&B``, or values that only their ends tell apart), each of them ends
    with a digest of the category: what a label stands for does not depend on the order.
    """
    plain = {category: "/".join(map(_label, category)) for category in categories}
    uses = Counter(plain.values())
    return {
        category: label if uses[label] == 1 else f"{label}_{_digest(category)}" for category, label in plain.items()
    }


def _label(part: str) -> str:
    label = _ODD.sub("_", part)[:_LONGEST_PART].strip()
    return label if label.strip(".") else "_"  # MLflow reads . and .. as folders


def _digest(category: Category) -> str:
    return hashlib.sha256(category.text.encode()).hexdigest()[:_DIGEST_LENGTH]
