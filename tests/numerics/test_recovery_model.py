"""The protocol of recovery, searched through all orders of its steps; and that the search finds what is wrong."""

import pytest

from tests.numerics.recovery_model import Broken, Mutation, Protocol, Store, Work, late_taker
from tests.numerics.recovery_search import search


@pytest.mark.parametrize("work", ["units", "checkpoints"])
@pytest.mark.parametrize("store", ["files", "objects"])
def test_two_drivers_and_a_kill_between_any_two_steps(store: Store, work: Work) -> None:
    searched = search(Protocol(store, work, starts=2, kills=1))
    assert searched.states > 50_000
    assert searched.endings > 80  # stores from each of which a new driver came to the end


@pytest.mark.parametrize("store", ["files", "objects"])
def test_a_driver_that_slept_through_others_cannot_take_their_number(store: Store) -> None:
    protocol = Protocol(store, "units", starts=2, kills=0)
    search(protocol, late_taker(protocol))


@pytest.mark.parametrize(
    ("mutation", "store", "work", "found"),
    [
        ("no check", "files", "units", "of a driver that was superseded has come to count"),
        ("no check", "objects", "checkpoints", "checkpoint of a live holder is deleted|newest checkpoint"),
        ("no sweep", "files", "units", "of a driver that was superseded has come to count"),
        ("no deletion", "files", "units", "2 drivers can make writes count"),
        ("no condition", "objects", "units", "a unit is counted twice"),
        ("wall clock", "files", "units", "renewed within its timeout"),
    ],
)
def test_the_search_finds_what_is_left_out(mutation: Mutation, store: Store, work: Work, found: str) -> None:
    with pytest.raises(Broken, match=found):
        search(Protocol(store, work, starts=2, kills=1, mutation=mutation))


def test_the_search_finds_a_number_that_is_not_read_again() -> None:
    protocol = Protocol("files", "units", starts=2, kills=0, mutation="no second reading")
    with pytest.raises(Broken, match="2 drivers can make writes count"):
        search(protocol, late_taker(protocol))
