"""Map in threads before the results are needed, in order, with a bounded number of items in flight."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int | Executor, most: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the items' order, while threads work on up to ``most`` further items.

    Args:
        function: what to do with an item, in one of the threads.
        items: iterated in the caller's thread.
        threads: how many to start for this map, or an executor of the caller's, which outlives it.
        most: bounds the results that wait and the items in flight.

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
