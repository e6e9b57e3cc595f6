"""Map in threads ahead of use, in order, with a bounded number of items under way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the items' order, while ``threads`` threads work on up to ``most`` further items.

    Items are drawn in the caller's thread.

    Raises:
        Exception: what the function raised, where its result is asked for.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
