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
