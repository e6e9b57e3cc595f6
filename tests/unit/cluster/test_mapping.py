"""The map in this process, over items that are there and over items that come."""

import pytest

from cluster.mapping import Growing, WorkerResources, map_in_process

RESOURCES = WorkerResources()


def test_items_that_come_are_taken_in_their_turn_and_waited_for() -> None:
    batches = iter([["a"], [], [], ["b", "c"], []])
    assert list(map_in_process(lambda: str.upper, Growing(batches), RESOURCES)) == ["A", "B", "C"]


def test_further_items_are_looked_for_after_each_one() -> None:
    order = []

    def come():
        for name in "abc":
            order.append(name)
            yield [name]

    for result in map_in_process(lambda: str.upper, Growing(come()), RESOURCES):
        order.append(result)
    assert order == ["a", "A", "b", "B", "c", "C"]


@pytest.mark.parametrize("items", [[], Growing(iter([])), Growing(iter([[], []]))])
def test_no_worker_is_made_for_nothing(items) -> None:
    def make_worker():
        raise AssertionError("there is nothing to work on")

    assert list(map_in_process(make_worker, items, RESOURCES)) == []


def test_an_error_of_one_item_waits_for_the_others_and_one_of_the_source_does_not() -> None:
    def work(item: int) -> float:
        return 1 / item

    results = map_in_process(lambda: work, Growing(iter([[1, 0], [2]])), RESOURCES)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)

    def broken():
        yield [1, 2]
        raise ConnectionError("the source is gone")

    results = map_in_process(lambda: work, Growing(broken()), RESOURCES)
    assert next(results) == 1
    with pytest.raises(ConnectionError):
        next(results)
