"""How far this process is with its present item: noted where it is worked on, and asked for with the signs of life."""

_samples = 0


def begin_item() -> None:
    """Begin a new item."""
    note_samples(0)


def note_samples(count: int) -> None:
    """Note how many samples of the present item are done."""
    global _samples  # noqa: PLW0603  a property of the process
    _samples = count


def samples_of_item() -> int:
    """Return how many samples of the present item are done; 0 where nobody notes them."""
    return _samples
