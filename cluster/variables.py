"""Environment variables that are set for a while: what is started later in this process must not find them."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping


@contextlib.contextmanager
def restored(names: Collection[str]) -> Iterator[None]:
    """Give these environment variables back as they were, once the block ends."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        restore(before)


def restore(before: Mapping[str, str | None]) -> None:
    """Give these environment variables their values back; None: they were not set."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
