"""What ``corgi generate`` shows while it works."""

import io
import re
import time

from rich.console import Console

from pipeline.generation.view import GenerationView


def wait_for(written: io.StringIO, words: str) -> None:
    until = time.monotonic() + 60
    while words not in written.getvalue():
        assert time.monotonic() < until, written.getvalue()
        time.sleep(0.02)


def test_lines_come_while_no_image_is_done_and_count_those_that_are() -> None:
    written = io.StringIO()
    with GenerationView(Console(file=written, width=120), line_seconds=0.2) as view:
        view.loading("run smoke-1")
        view.expect(64)
        wait_for(written, "generate: 0/64 images")
        for _ in range(3):
            view.count()
        wait_for(written, "generate: 3/64 images")
    lines = written.getvalue().splitlines()
    assert lines[0] == "generate: loading the models of run smoke-1"
    assert lines[1] == "generate: 0/64 images"
    assert re.fullmatch(r"generate: 3/64 images · \d+\.\d\d/s · \d+ s left", lines[-1])


def test_a_bar_shows_rate_and_time_left_on_a_terminal() -> None:
    written = io.StringIO()
    with GenerationView(Console(file=written, force_terminal=True, width=120), line_seconds=0.05) as view:
        view.expect(4)
        time.sleep(0.3)
        view.count()
        view._bars.refresh()
    assert re.search(r"1/4\S* images · \d+\.\d\d/s · \d+ s left", written.getvalue())
    assert "generate: 0/4" not in written.getvalue(), "a terminal has the bar alone"
