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

    The items are iterated in the caller's thread; an error of the function is raised where its result is asked for.
    ``threads`` says how many to start for this map, or is an executor of the caller's, which outlives it.
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
