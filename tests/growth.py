"""How the time that something takes grows with its input: a ratio, which a slow or busy machine does not change."""

import time
from collections.abc import Callable

# Of the time for 4 times the input: 4 where each part costs the same, 16 where each part looks at all others.
FACTOR = 4
MOST_GROWTH = 8.0
LEAST_SECONDS = 0.05  # below, the time is that of what does not grow


def assert_linear(compute: Callable[[int], object], size: int) -> None:
    """Assert that `compute(FACTOR * size)` takes less than `MOST_GROWTH` times the processor time of `compute(size)`.

    A pair of measurements that says otherwise is made again twice: another process may have had the caches.
    """
    pairs: list[tuple[float, float]] = []
    for _ in range(3):
        pairs.append((_seconds(compute, size), _seconds(compute, FACTOR * size)))
        if pairs[-1][1] < MOST_GROWTH * max(pairs[-1][0], LEAST_SECONDS):
            return
    raise AssertionError(f"seconds for {size} and {FACTOR * size}: {pairs}")


def _seconds(compute: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    compute(size)
    return time.process_time() - began
