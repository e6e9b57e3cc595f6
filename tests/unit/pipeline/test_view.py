"""What a run shows of its stages."""

import io
import itertools
import re
import time
from pathlib import Path

from rich.console import Console

from cluster.workers import AtWork, by_machine
from pipeline.config.loading import load_config
from pipeline.plan import make_plan
from pipeline.progress import Pace
from pipeline.store import Store
from pipeline.view import RunView
from stages.contract.events import Log, Progress, Workers
from stages.contract.stage import Allocation


def test_a_warning_of_a_stage_that_has_not_started_is_printed() -> None:
    written = io.StringIO()
    with RunView(Console(file=written)) as view:
        view.event("embed_clip", Log("img_emb_00008.npy: found 76 bytes: it is made again", "WARNING"))
    assert "embed_clip: warning: img_emb_00008.npy: found 76 bytes: it is made again" in written.getvalue()


def test_a_bar_moves_while_its_shards_are_worked_on(tmp_path: Path) -> None:
    stage = make_plan(load_config("configs/smoke.yaml"), Store(str(tmp_path))).stages["download_shards"]
    written = io.StringIO()
    with RunView(Console(file=written, force_terminal=True, width=150)) as view:
        view.started(stage, Allocation())
        view.event(stage.name, Progress(3, 24, "shards"))
        for samples in (1000, 1250, 0):
            view.event(stage.name, Workers(by_machine([AtWork("a", "00003", samples), AtWork("b", "00004", samples)])))
            view._live.refresh()
    shown = re.findall(r"[\d,]+ samples under way", written.getvalue())  # again, where time refreshes them
    assert [text for text, _ in itertools.groupby(shown)] == ["2,000 samples under way", "2,500 samples under way"]


def test_the_rate_of_other_units_is_counted_anew() -> None:
    pace = Pace()
    pace.note(Progress(0, 30, "units of images"))
    time.sleep(0.3)
    pace.note(Progress(30, 30, "units of images"))
    assert (pace.rate or 0) > 1
    begun = time.monotonic()
    pace.note(Progress(1, 20, "steps of the figures"))
    assert pace.rate is None
    assert pace.seconds_left is None
    time.sleep(0.05)
    pace.note(Progress(3, 20, "steps of the figures"))
    rate = pace.rate or 0
    assert 2 / (time.monotonic() - begun) <= rate <= 2 / 0.05
