"""Map in threads ahead of use, in order, with a bounded number of items under way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int | Executor, most: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the items' order, while threads work on up to ``most`` further items.

    Args:
        function: what to do with an item, in one of the threads.
        items: drawn in the caller's thread.
        threads: how many of this map's own, or those of the caller, which outlive it.
        most: bounds the results that wait and the items under way.

    Raises:
        Exception: what the function raised, where its result is asked for.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads) if isinstance(threads, int) else threads
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
        if pool is not threads:
            pool.shutdown()
