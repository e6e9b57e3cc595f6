"""Plots of a sweep are written whatever stands in their texts, into the sweep's folder; so are its tables."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from pipeline.errors import UsageError
from pipeline.sweep.command import do_sweep
from pipeline.sweep.config import PlotConfig, Variant, load_sweep
from pipeline.sweep.plots import write_plot
from pipeline.sweep.report import VariantFigures, write_tables
from pipeline.sweep.run import SweepResult, open_sweep, result_of
from stages.storage.artifact import Output
from tests.factories import make_record
from tests.unit.pipeline.sweep.sweeps import write_sweep


def rows_of(group: str, figure: str, *values: Any) -> list[VariantFigures]:
    variants = [Variant(group, {"k": value}, {"k": value}) for value in values]
    return [VariantFigures(variant, {figure: [0.5]}, failed=0, repeats=1) for variant in variants]


@pytest.mark.parametrize(
    ("group", "figure", "label", "values"),
    [
        ("g", "f", "$\\foo$", (1, 2)),
        ("g", "$\\foo$", "", (1, 2)),
        ("_g", "f", "", (1, 2)),
        ("g\ud800", "f\ud800", "\ud800", (1, 2)),
        ("g", "f", "", ("\ud800", None)),
        ("g", "f", "", ("v" * 50_000, "w" * 50_000)),
        ("g" * 50_000, "f" * 50_000, "x" * 50_000, (1, 2)),
    ],
    ids=["label", "figure", "underscore", "surrogates", "surrogate in a value", "long values", "long texts"],
)
@pytest.mark.timeout(30)
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # where long texts leave no room, it is plotted so
def test_any_text_is_plotted(tmp_path: Path, group: str, figure: str, label: str, values: tuple[Any, ...]) -> None:
    plot = PlotConfig(figure=figure, x="k", x_label=label)
    assert write_plot(plot, rows_of(group, figure, *values), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 300


def test_the_legend_has_names_that_begin_with_an_underscore(tmp_path: Path) -> None:
    plot = PlotConfig(figure="f", x="k")
    for name in ("_one", "other"):
        assert write_plot(plot, [*rows_of(name, "f", 1), *rows_of("h", "f", 2)], tmp_path / f"{name}.png")
    assert (tmp_path / "_one.png").read_bytes() != (tmp_path / "other.png").read_bytes()
    assert write_plot(plot, [*rows_of("_two", "f", 1), *rows_of("h", "f", 2)], tmp_path / "_two.png")
    assert (tmp_path / "_one.png").read_bytes() != (tmp_path / "_two.png").read_bytes()


def test_a_label_that_is_no_unicode_has_a_row(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, table={"f": "f"}))
    write_tables(sweep, rows_of("g\ud800", "f", 1), tmp_path)
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[1:] == ['"g?, k 1",0.5,1']


def test_a_plot_that_cannot_be_made_costs_itself_alone(tmp_path: Path) -> None:
    plots = {"huge": {"figure": "huge/steps_*"}, "good": {"figure": "good/steps_*"}}
    sweep = load_sweep(write_sweep(tmp_path, plots=plots, repeat=None))
    console = Console(record=True, width=400)
    record = make_record("a", metrics={"huge/steps_1": 1e308, "huge/steps_2": -1e308, "good/steps_1": 1.0})
    outcome = do_sweep(
        sweep,
        [f"store={tmp_path / 'store'}"],
        console,
        lambda runs, *_: (SweepResult(run, record, record.metrics) for run in runs),
    )
    assert [path.name for path in outcome.folder.glob("*.png")] == ["good.png"]
    assert "plots.huge: it cannot be plotted (" in console.export_text()


@pytest.mark.parametrize("name", ["../../z", "a/b", "a\0b", "a" * 101, "", ".a", "a\n", "/tmp/a"])
def test_the_name_of_a_plot_is_that_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"plots: found the name .*, which names a file; allowed: up to 100 letters"):
        load_sweep(write_sweep(tmp_path, plots={name: {"figure": "f/*"}}))


@pytest.mark.parametrize(
    "path", ["", ".", "..", "validation", "../../a.json", "/etc/a.json", "a/../b.json", "a\0.json", f"{'a' * 300}.json"]
)
def test_a_document_is_a_file_of_its_artifact(tmp_path: Path, path: str) -> None:
    with pytest.raises(
        UsageError, match=r"documents: train_prior has .*; expected a JSON file in that stage's artifact"
    ):
        load_sweep(write_sweep(tmp_path, documents={"train_prior": path}))


def test_a_document_that_is_a_folder_costs_its_numbers_alone(tmp_path: Path) -> None:
    run = open_sweep(load_sweep(write_sweep(tmp_path)), [f"store={tmp_path / 'store'}"])[0]
    artifact = Output(str(tmp_path / "artifact"), "train_prior", "x")
    artifact.write_json("validation.json/of_a_step.json", {})
    record = make_record(metrics={"a": 1.0}, artifacts={"train_prior": artifact.uri})
    result = result_of(run, record, {"train_prior": "validation.json"})
    assert result.figures == {"a": 1.0}
    assert "the artifact has no file 'validation.json'" in result.error
