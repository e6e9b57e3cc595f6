"""How far this process is with its present item: noted where it is worked on, and asked for with the signs of life.

And whether a worker was lost at the item before, which may have finished it without having been heard.
"""

_samples = 0
_is_given_again = False


def begin_item(*, is_given_again: bool = False) -> None:
    """Begin an item, which may have been given to a worker that was lost."""
    global _is_given_again  # noqa: PLW0603  a property of the process
    _is_given_again = is_given_again
    note_samples(0)


def item_is_given_again() -> bool:
    """Return whether the present item was given to a worker that was lost."""
    return _is_given_again


def note_samples(count: int) -> None:
    """Note how many samples of the present item are done."""
    global _samples  # noqa: PLW0603  a property of the process
    _samples = count


def samples_of_item() -> int:
    """Return how many samples of the present item are done; 0 where nobody notes them."""
    return _samples
