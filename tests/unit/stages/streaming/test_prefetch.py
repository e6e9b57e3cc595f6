"""Mapping ahead of use: in order, bounded, and faults where they are asked for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.streaming.prefetch import prefetch


def test_results_come_in_order_however_long_each_takes():
    def slow_at_first(number):
        time.sleep(0.02 / (number + 1))
        return number * 2

    assert list(prefetch(slow_at_first, range(20), threads=4, most=6)) == [number * 2 for number in range(20)]


def test_threads_prefetch_no_further_than_allowed():
    begun, generated = [], []
    ready = threading.Semaphore(0)

    def note(number):
        begun.append(number)
        ready.release()
        return number

    def items():
        for number in range(100):
            generated.append(number)
            yield number

    results = prefetch(note, items(), threads=2, most=5)
    assert next(results) == 0
    for _ in range(6):  # the one that was asked for and five beyond it, without anyone asking for those
        assert ready.acquire(timeout=10)
    assert sorted(begun) == generated == list(range(6))
    results.close()


def test_an_exception_is_raised_in_order():
    def refuse(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = prefetch(refuse, range(10), threads=2, most=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def slow_notes():
    done: list[int] = []

    def note(number: int) -> None:
        done.append(number)
        time.sleep(0.01)

    return done, note


def test_nothing_goes_on_after_it_is_closed():
    done, note = slow_notes()
    before = set(threading.enumerate())
    results = prefetch(note, range(1000), threads=1, most=500)
    next(results)
    results.close()
    left = len(done)
    assert left < 500
    assert not set(threading.enumerate()) - before


def test_the_callers_threads_outlive_it():
    done, note = slow_notes()
    with ThreadPoolExecutor(2) as pool:
        results = prefetch(note, range(1000), threads=pool, most=500)
        next(results)
        results.close()
        left = len(done)
        assert left < 500
        assert list(prefetch(abs, [-1, 2], threads=pool, most=1)) == [1, 2]
        assert len(done) == left
