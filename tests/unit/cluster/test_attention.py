"""Time in which nobody attended says nothing of others."""

from cluster.attention import AttentiveClock, Countdown


class Hands:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_pause_between_two_readings_counts_no_more_than_the_most() -> None:
    hands = Hands()
    clock = AttentiveClock(2.0, hands)
    hands.at += 1.5
    assert clock.now() == 1.5
    hands.at += 60
    assert clock.now() == 3.5
    assert clock.now() == 3.5


def test_a_countdown_that_is_read_as_it_asks_for_ends_with_its_time() -> None:
    hands = Hands()
    countdown, waits = Countdown(2.5, hands), []
    while wait := countdown.next_wait():
        waits.append(wait)
        hands.at += wait
    assert waits == [1.0, 1.0, 0.5]
    assert countdown.left() == 0
    hands.at += 10
    assert countdown.left() == 0


def test_a_countdown_of_a_process_that_was_held_up_has_time_left() -> None:
    hands = Hands()
    countdown = Countdown(10.0, hands)
    hands.at += 3600
    assert countdown.left() == 8.0
    assert countdown.next_wait() == Countdown.TICK
