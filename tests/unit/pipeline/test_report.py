"""What a run tells at its end."""

import io
from typing import Any

import pytest
from rich.console import Console

from pipeline.heartbeat import Life
from pipeline.quickstart import accuracy_table, quickstart_document
from pipeline.record import RunRecord
from pipeline.report import print_failures, print_skips, runs_table, stage_table
from tests.factories import make_entry, make_record


def _record(**changes: Any) -> RunRecord:
    stages = [
        make_entry("generate", seconds=12.0, startup_seconds=2.0, items=720, item_name="images", made=720),
        make_entry("evaluate", "reused", seconds=0.0, startup_seconds=0.0, items=240, item_name="images"),
    ]
    both = {"accuracy": 0.9, "control/unrelated": 0.02, "control/text_embedding": 0.6, "reconstruction": 0.97}
    metrics = {f"evaluate/{name}/{column}": v for name, v in both.items() for column in ("color", "shape", "both")}
    record = {
        "stages": stages, "metrics": metrics, "seconds": 20.0, "overhead_seconds": 8.0,
        "artifacts": {"generate": "/store/artifacts/generate/f"}, "config": {"store": "elsewhere"},
    }  # fmt: skip
    return make_record("quickstart-1", **(record | changes))


def _text(content: Any, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(content)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_table_shows_seconds_items_and_rate_without_start_up() -> None:
    text = _text(stage_table(_record()))
    assert "72/s" in text  # 720 images in 12 - 2 seconds
    assert "720 images" in text
    assert "reused" in text
    assert "20.0" in text
    assert "0.4%" not in text
    waited = {"generate/data_wait_fraction": 0.004}
    assert "0.4%" in _text(stage_table(_record(metrics=waited)))


def test_a_slow_stage_has_a_rate() -> None:
    slow = make_entry("generate", seconds=12.0, startup_seconds=2.0, items=3, item_name="images", made=3)
    assert "0.3/s" in _text(stage_table(_record(stages=[slow])))


def test_without_the_count_of_the_last_start_no_rate_is_shown() -> None:
    earlier = make_entry("generate", seconds=12.0, startup_seconds=2.0, items=720, item_name="images")
    assert "/s" not in _text(stage_table(_record(stages=[earlier])))


def test_a_narrow_table_shows_every_number_and_name_whole() -> None:
    """Of 80 columns, which its own do not fit."""
    identity = {"captions": {"fraction": 0.125}}
    for name in ("download_shards", "train_second_upsampler", "caption_images"):
        stage = make_entry(
            name, seconds=123456.7, startup_seconds=1234.5, items=98765432109, item_name="images", made=98765432
        )
        waits = {f"{name}/{figure}": 0.123 for figure in ("data_wait_fraction", "cpu_utilisation")}
        plan = {name: {"fingerprint": "f", "identity": identity}}
        record = _record(stages=[stage], plan=plan, metrics=waits, overhead_seconds=None)
        lines = _text(stage_table(record), width=80).splitlines()
        assert max(map(len, lines)) <= 80
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
        found = {"".join(parts).replace(" ", "") for parts in zip(*cells, strict=True)}
        assert found == {
            name, "done", "123456.7", "1234.5", "98,765,432,109images", "808/s", "12.3%", "12.5%", "CPU12%"
        }  # fmt: skip


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    table = stage_table(_record(stages=[make_entry("generate", startup_seconds=0.0)], overhead_seconds=None))
    assert [str(column.header) for column in table.columns] == ["stage", "state", "seconds"]


def test_the_quickstart_shows_its_figures_beside_controls() -> None:
    text = _text(accuracy_table(_record()))
    for words in ("0.900", "0.020", "0.600", "0.970"):
        assert words in text


def test_the_quickstart_document_names_accuracy_and_grid_where_there_are_any() -> None:
    document = quickstart_document(_record())
    assert document["accuracy"] == {"color": 0.9, "shape": 0.9, "both": 0.9}
    assert document["grid"] == "/store/artifacts/generate/f/grid.png"
    assert "accuracy" not in quickstart_document(_record(status="failed"))


def test_a_failure_is_reported_with_its_cause_and_log() -> None:
    stages = [
        make_entry("train_prior", "failed", error="no captions [0]", log="/logs/train_prior.log"),
        make_entry("generate", "blocked", error="needs train_prior", seconds=0.0),
    ]
    console = Console(file=io.StringIO(), width=160)
    print_failures(console, _record(stages=stages))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("no captions [0]", "/logs/train_prior.log", "generate was not run: needs train_prior"):
        assert words in text


def test_what_was_skipped_is_reported_as_it_is_written() -> None:
    notes = {"skipped": "unsupported_format: 2 (.heic 2; first: [red]a.heic)"}
    console = Console(file=io.StringIO(), width=160)
    print_skips(console, _record(stages=[make_entry("download_shards", notes=notes), make_entry("embed_clip")]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text == "download_shards skipped unsupported_format: 2 (.heic 2; first: [red]a.heic)\n"


def test_a_streaming_stage_is_marked_and_a_stopped_one_counts_as_run() -> None:
    stages = [
        make_entry("download_shards", "failed", error="404"),
        make_entry("embed_clip", "blocked", followed=["download_shards"], error="which failed"),
        make_entry("fit_gaussians", "blocked", seconds=0.0, startup_seconds=0.0, error="needs it"),
    ]
    assert "blocked, beside download_shards" in _text(stage_table(_record(stages=stages)))
    console = Console(file=io.StringIO(), width=160)
    print_failures(console, _record(stages=stages))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "embed_clip was stopped: which failed" in text
    assert "fit_gaussians was not run: needs it" in text


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("2026-11-29T19:29:27.917+00:00", "2026-11-29 19:29:27"),
        ("2026-11-29T01:29:27+02:00", "2026-11-28 23:29:27"),
        ("of another version", "of another version"),
        ("0001-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:00"),
    ],
)
def test_the_times_of_all_runs_are_in_utc_to_the_second(started: str, shown: str) -> None:
    table = runs_table([make_record("smoke-1", started=started)], [Life("done")])
    assert [str(cell) for cell in table.columns[2].cells] == [shown]
