"""What is known of an MLflow run: which numbers count after a roll back, and what is sent."""

import math

from pipeline.tracking_state import ROLLED_BACK_TO, TrackedRun, image_file, image_of
from stages.contract.events import RolledBack


def test_two_roll_backs_from_one_step_are_both_sent() -> None:
    run = TrackedRun("run")
    for _ in range(2):  # whatever is given twice counts once
        run.roll_back(RolledBack(10, 30, 3000))
        run.roll_back(RolledBack(20, 30, 6000))
    assert run.waiting == {(ROLLED_BACK_TO, 30, 3000): 10.0, (ROLLED_BACK_TO, 30, 6000): 20.0}


def test_what_could_not_be_sent_is_taken_again() -> None:
    run = TrackedRun("run", steps={("loss", 10): 1000, ("loss", 20): 2000})

    def give() -> None:
        run.roll_back(RolledBack(10, 30, 3000))
        run.add({"loss": 2.2}, 4000, 20)
        run.add({"loss": 2.5}, 2500, 25)  # of the try that was discarded

    give()
    waiting = dict(run.waiting)
    run.forget_waiting()
    assert run.waiting == {}
    give()
    assert run.waiting == waiting == {(ROLLED_BACK_TO, 30, 3000): 10.0, ("loss", 20, 4000): 2.2}
    assert run.steps == {("loss", 10): 1000, ("loss", 20): 4000}


def test_a_figure_that_differs_replaces_the_earlier_one() -> None:
    run = TrackedRun("run", steps={("a", 0): 1000, ("b", 0): 1000}, figures={"a": 1.0, "b": 2.0})
    run.set_figures({"a": 1.0, "b": 3.0}, 2000)
    run.set_figures({"b": 4.0}, 2000)  # in the same millisecond
    run.set_figures({"b": 2.0}, 1000)  # reported belatedly
    assert run.waiting == {("b", 0, 2001): 4.0}
    run.forget_waiting()
    run.set_figures({"a": 1.0, "b": 4.0}, 2000)
    assert run.waiting == {("b", 0, 2000): 4.0}
    run.set_figures({"b": math.nan}, 3000)
    run.set_figures({"b": math.nan}, 4000)
    assert list(run.waiting) == [("b", 0, 3000)]


def test_a_count_that_is_gone_becomes_zero() -> None:
    run = TrackedRun("run")
    run.set_counts("counts/", {"images": 9, "not an image: bad": 3}, 1000)
    run.set_counts("other/", {"images": 5}, 1000)
    run.set_counts("counts/", {"images": 8}, 2000)
    assert run.figures == {"counts/images": 8.0, "counts/not an image_ bad": 0.0, "other/images": 5.0}


def test_name_step_and_time_are_read_off_the_file_of_an_image() -> None:
    assert image_of(image_file("run", "held out/grid", 20, 4000) + ".png") == ("held out~grid", 20, 4000)
    assert image_of("images/grid+step+20+earlier.png") == ("grid", 20, 0)
    assert image_of("images/other.png") is None
