"""Whatever names, records, prompts and messages hold: a terminal shows it as text, and commands end in a sentence."""

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from pipeline.cli import _report_error, app, main
from pipeline.comparison import comparison_table, metrics_table
from pipeline.console import Terminal
from pipeline.heartbeat import Life
from pipeline.inspection.show import print_findings
from pipeline.logs.writer import RunLogs
from pipeline.quickstart import accuracy_table
from pipeline.report import print_failures, runs_table, stage_table
from pipeline.results import StageResult
from pipeline.store import Store
from pipeline.view import RunView
from stages.contract.errors import InputFault
from stages.contract.events import Log
from stages.contract.findings import Findings
from stages.formats.generated_images import encode_png
from tests.factories import make_entry, make_record

HOSTILE = "[red]boo[/] :bomb: \x1b[2J\x1b]0;title\x07 \x9b31m \u202egpj.exe \x00 \u2066x"
FORGED = "a\ncorgi: everything is done\r\nrun x: done"
OWN_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[mKhlA-H]|\r")  # colors and the cursor, which rich itself sends
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")


def shown_by(print_it: Any) -> str:
    """Return what is printed on a terminal with colors, without rich's own sequences."""
    file = io.StringIO()
    print_it(Terminal(file=file, width=2000, force_terminal=True))
    return OWN_SEQUENCES.sub("", file.getvalue())


def assert_is_text(shown: str, *, literal: bool = True) -> None:
    assert not FORBIDDEN.findall(shown)
    if literal:
        assert "[red]boo[/] :bomb: " in shown


def hostile_record() -> Any:
    entry = make_entry(HOSTILE, "failed", error=f"{HOSTILE}\n{FORGED}", item_name=HOSTILE, items=3, log=HOSTILE)
    blocked = make_entry(f"{HOSTILE}2", "blocked", error=HOSTILE, notes={"skipped": HOSTILE})
    return make_record(
        "x-1",
        name=HOSTILE,
        config_path=HOSTILE,
        started=HOSTILE,
        stages=[entry, blocked],
        metrics={f"a/{HOSTILE}": 1.0},
    )


@pytest.mark.parametrize(
    "make", [stage_table, accuracy_table, lambda r: runs_table([r], [Life(r.status)]), lambda r: metrics_table([r])]
)
def test_tables_show_a_record_as_text(make: Any) -> None:
    assert_is_text(shown_by(lambda console: console.print(make(hostile_record()))), literal=make is not accuracy_table)


def test_failures_findings_and_comparisons_are_text(tmp_path: Path) -> None:
    record = hostile_record()
    failures = shown_by(lambda console: print_failures(console, record))
    assert_is_text(failures)
    assert "\ncorgi:" not in failures
    assert "\nrun x:" not in failures
    store = Store(str(tmp_path))
    assert_is_text(shown_by(lambda console: console.print(comparison_table([record], store))), literal=False)
    findings = Findings(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    findings.add_table(HOSTILE, (HOSTILE, "b"), [(HOSTILE, FORGED)])
    findings.notes.append(HOSTILE)
    assert_is_text(shown_by(lambda console: print_findings(console, [findings])))


def test_log_lines_and_log_files_are_text_and_cannot_be_forged(tmp_path: Path) -> None:
    def report(console: Terminal) -> None:
        view = RunView(console)
        with view:
            view.report(f"{HOSTILE} {FORGED}")
            view.finished(StageResult("generate", "blocked", error=HOSTILE))

    shown = shown_by(report)
    assert_is_text(shown)
    assert "\ncorgi:" not in shown
    store = Store(str(tmp_path))
    store.write_run(make_record(plan={"generate": {"fingerprint": "f", "identity": {}}}))
    RunLogs(store, "tiny-1").write("generate", Log(f"{HOSTILE} {FORGED}", "WARNING", 0.0, HOSTILE, HOSTILE))
    (line,) = (tmp_path / "runs/tiny-1/logs/generate.jsonl").read_text().splitlines()
    assert_is_text(json.loads(line)["message"])
    for words in (["logs", "tiny-1"], ["logs", "tiny-1", "--follow"]):
        written = CliRunner().invoke(app, [*words, "--store", str(tmp_path)]).output
        assert_is_text(written, literal=False)
        assert "\ncorgi:" not in written


@pytest.fixture
def corgi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process; return exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["corgi", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return int(ended.value.code or 0), found.out, found.err

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Store(str(tmp_path / "store")).open_for_writing()
    Store(str(tmp_path / "store")).write_run(hostile_record())
    return tmp_path / "store"


def test_commands_show_the_records_of_a_store_as_text(corgi: Any, store: Path) -> None:
    for words in (["status"], ["status", "x-1"], ["compare", "x-1", "x-1", "--all"]):
        code, out, err = corgi(*words, "--store", store)
        assert code == 0
        assert_is_text(out, literal="compare" not in words)
        assert_is_text(err, literal=False)
    _, out, _ = corgi("status", "x-1", "--store", store, "--json")
    assert json.loads(out)["stages"][0]["name"] == HOSTILE
    assert_is_text(out, literal=False)


BROKEN = {
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "a list": b"[1]",
    "no text": b"\xff\xfe",
    "a number": b"9" * 10_000,
    "surrogates": b'{"run": "\\ud800"}',
    "keys of others": json.dumps({HOSTILE: 1}).encode(),
    "paths": json.dumps(
        hostile_record().to_json() | {"plan": {"generate": {"fingerprint": "../..", "identity": {}}}}
    ).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_record_is_one_sentence(corgi: Any, store: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (store / "runs" / "x-1" / "run.json").write_bytes(BROKEN[name])
    for words, expected in ((["status"], 0), (["status", "x-1"], 2)):  # the other runs are shown all the same
        code, out, err = corgi(*words, "--store", store)
        assert code == expected
        assert "Traceback" not in out + err
        assert_is_text(err, literal=False)
        assert len(err) < 2500
    assert "run.json" in caplog.text


def test_a_damaged_store_document_is_one_sentence(corgi: Any, store: Path) -> None:
    (store / "store.json").write_bytes(BROKEN["deep"])
    for words in (["status", "x-1"], ["compare", "x-1"], ["inspect", "x-1"], ["dashboard"],
                  ["generate", "x-1", "--prompt", "a", "--out", store]):  # fmt: skip
        code, _, err = corgi(*words, "--store", store)
        assert (code, "Traceback" in err) == (2, False)


def test_names_on_the_command_line_are_shown_as_text(corgi: Any, tmp_path: Path) -> None:
    name = HOSTILE.replace("\0", "")  # which no command line can hold
    for words in (["validate", f"{name}.yaml"], ["status", name, "--store", tmp_path],
                  ["inspect", f"x{name}", "--store", tmp_path]):  # fmt: skip
        code, out, err = corgi(*words)
        assert code == 2
        assert_is_text(out + err, literal=False)
        assert "Traceback" not in err


def test_an_unexpected_error_cannot_write_to_the_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert _report_error(LookupError(HOSTILE + FORGED)) == 1
    shown = capsys.readouterr().err
    assert_is_text(shown)
    assert "\ncorgi:" not in shown


def png(folder: Path, **fields: str) -> Path:
    path = folder / "again.png"
    path.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), fields))
    return path


GOOD = {"prompt": "a", "seed": "1", "run": "x-1", "settings": "{}", "batch": "[1, 0]"}
IMAGE = {"name": "x", "embedding": "!"}
RECIPE = {"mode": "text", "seed": 1, "prompt": "a"}
AGAIN = {
    "seed too large": {"seed": str(2**64)},
    "seed of many digits": {"seed": "9" * 5000},
    "negative seed": {"seed": "-1"},
    "seed that is no number": {"seed": HOSTILE},
    "deep recipe": {"recipe": "[" * 100_000},
    "deep mapping": {"recipe": '{"a":' * 500 + "1" + "}" * 500},
    "recipe of another kind": {"recipe": json.dumps({"mode": HOSTILE})},
    "recipe with a huge seed": {"recipe": json.dumps(RECIPE | {"seed": 2**70})},
    "recipe with more": {"recipe": json.dumps(RECIPE | {"execute": "x"})},
    "a long prompt": {"recipe": json.dumps(RECIPE | {"prompt": "x" * 20_000})},
    "strength that is no number": {"recipe": '{"mode": "arithmetic", "seed": 1, "prompt": "a", "instead_of": "b", '
                                             '"image": {"name": "x", "embedding": ""}, "strength": NaN}'},
    "an embedding that is none": {"recipe": json.dumps({"mode": "variation", "seed": 1, "image": IMAGE})},
    "a large batch": {"batch": "[1000000000, 0]"},
    "a batch of text": {"batch": '"ab"'},
    "a batch of truths": {"batch": "[true, false]"},
    "no batch": {"batch": "{"},
    "an unknown run": {"run": HOSTILE},
    "a run elsewhere": {"run": "../../etc"},
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_again_refuses_fields_out_of_bounds(corgi: Any, tmp_path: Path, name: str) -> None:
    Store(str(tmp_path)).open_for_writing()
    path = png(tmp_path, **GOOD | AGAIN[name])
    code, out, err = corgi("generate", "--again", path, "--out", tmp_path / "out", "--store", tmp_path)
    assert code == 2
    assert "Traceback" not in out + err
    assert_is_text(err, literal=False)
    assert len(err) < 2500


def test_again_refuses_files_that_are_no_image_of_ours(corgi: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("x")
    (tmp_path / "folder.png").mkdir()
    buffer = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 50_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(buffer, "PNG", pnginfo=info)
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    for name in ("fifo", "empty", "text", "folder", "bomb", "missing"):
        code, _, err = corgi("generate", "--again", tmp_path / f"{name}.png", "--out", tmp_path, "--store", tmp_path)
        assert (code, "Traceback" in err) == (2, False), name
        assert "cannot be read as a PNG" in err


def test_a_stage_error_is_quoted_as_text() -> None:
    assert_is_text(shown_by(lambda console: console.print(str(InputFault(HOSTILE)))))
