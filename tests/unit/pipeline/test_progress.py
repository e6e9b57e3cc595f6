"""Rate and time left of a stage that runs."""

import time

from pipeline.progress import Pace
from stages.contract.events import Progress


def test_the_rate_of_a_training_that_goes_back_is_that_of_the_steps_since_then() -> None:
    pace = Pace()
    pace.note(Progress(0, 1000, "steps"))
    pace.note(Progress(900, 1000, "steps"))
    pace.note(Progress(100, 1000, "steps"))
    assert pace.rate is None
    time.sleep(0.01)
    pace.note(Progress(101, 1000, "steps"))
    assert pace.rate is not None
    assert 0 < pace.rate <= 100
    assert pace.seconds_left is not None
    assert pace.seconds_left >= 8.9


def test_units_that_are_taken_over_promise_nothing_of_those_that_are_made() -> None:
    pace = Pace()
    pace.note(Progress(0, 1000, "shards"))
    for done in range(1, 990):
        pace.note(Progress(done, 1000, "shards", reused=done))
    time.sleep(0.2)
    begun = time.monotonic()
    pace.note(Progress(990, 1000, "shards", reused=990))
    assert pace.rate is None
    time.sleep(0.05)
    pace.note(Progress(991, 1000, "shards", reused=990))
    assert pace.rate is not None
    assert 1 / (time.monotonic() - begun) <= pace.rate <= 1 / 0.05  # from when the first that is made began
    assert pace.seconds_left is not None
    assert pace.seconds_left >= 9 * 0.05
    pace.note(Progress(992, 1000, "shards", reused=991))  # one more is quick: the rate does not begin anew
    assert 0 < (pace.rate or 0) <= 1 / 0.05
