"""A sweep's variants, its table and its plots."""

import csv
import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.errors import UsageError
from pipeline.sweep.config import PlotConfig, SweepConfig, Variant, load_sweep, variants_of
from pipeline.sweep.plots import axis_labels, curves_of, write_plot
from pipeline.sweep.report import (
    VariantFigures,
    by_variant,
    missing_figures,
    sweep_document,
    sweep_table,
    sweep_warnings,
    write_tables,
)
from pipeline.sweep.run import SweepResult, SweepRun, open_sweep, result_of
from stages.storage.artifact import Output
from tests.factories import make_record
from tests.unit.pipeline.sweep.sweeps import TREE, write_sweep


def rows_of(path: Path) -> tuple[SweepConfig, list[VariantFigures]]:
    """Figures that say where they come from: kappa + k / 10 + repeat / 100 at one step, and ten more at four."""
    sweep = load_sweep(path)
    rows = []
    for variant in variants_of(sweep):
        kappa = variant.grid.get("train_prior.kappa", 0.0)
        k = variant.grid.get("fit_gaussians.num_gaussians", 0)
        values = [kappa + k / 10 + repeat / 100 for repeat in (0, 1)]
        rows.append(
            VariantFigures(
                variant,
                {
                    "train_prior/cosine_true": values,
                    "train_prior/cosine_true/steps_1": values,
                    "train_prior/cosine_true/steps_4": [value + 10 for value in values],
                },
                failed=0,
                repeats=2,
            )
        )
    return sweep, rows


def test_a_grid_gives_every_combination(tmp_path: Path) -> None:
    variants = list(variants_of(load_sweep(write_sweep(tmp_path))))
    assert [variant.label for variant in variants] == [
        "shifted, num_gaussians 1, kappa 1",
        "shifted, num_gaussians 1, kappa 5",
        "shifted, num_gaussians 2, kappa 1",
        "shifted, num_gaussians 2, kappa 5",
        "baseline",
    ]


def test_some_groups_can_be_chosen(tmp_path: Path) -> None:
    assert [v.group for v in variants_of(load_sweep(write_sweep(tmp_path), ["baseline"]))] == ["baseline"]
    with pytest.raises(UsageError, match="found 'shiftd'; did you mean 'shifted'\\? allowed: shifted, baseline"):
        load_sweep(write_sweep(tmp_path), ["shiftd"])


def test_another_experiment_may_be_varied(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path), base=Path("mine.yaml"))
    assert sweep.base == Path("mine.yaml")  # as it was given, from the current folder
    assert list(variants_of(sweep)) == list(variants_of(load_sweep(write_sweep(tmp_path))))


def test_each_variant_and_repeat_is_an_experiment_of_its_own(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, groups={"shifted": TREE["groups"]["shifted"]}))
    runs = open_sweep(sweep, [f"store={tmp_path / 'store'}"])
    assert len({run.experiment.plan.run for run in runs}) == len(runs) == 8
    config = runs[3].experiment.config
    assert config.fit_gaussians is not None
    assert config.fit_gaussians.num_gaussians == 1
    assert config.train_prior is not None
    assert (config.train_prior.kind, config.train_prior.seed) == ("shifted", 1)
    fingerprints = {run.experiment.plan.stages["embed_clip"].fingerprint for run in runs}
    assert len(fingerprints) == 1  # what does not vary is made once


def test_values_reach_the_experiment_as_they_are_written() -> None:
    settings = {"a.none": None, "a.text": "yes", "a.list": [1, 2], "a.number": 1e-3, "a.true": True}
    words = Variant("group", settings, {}).overrides(None, None)
    read = {word.partition("=")[0]: yaml.safe_load(word.partition("=")[2]) for word in words}
    assert read == settings


def test_mean_and_spread_are_over_the_repeats(tmp_path: Path) -> None:
    _, rows = rows_of(write_sweep(tmp_path))
    assert rows[1].cell("train_prior/cosine_true") == "5.105 ± 0.0071"
    assert rows[1].cell("no/such_figure") == "-"
    assert VariantFigures(rows[0].variant, {}, failed=2, repeats=2).cell("train_prior/cosine_true") == "failed"


def test_the_tables_hold_a_row_for_each_variant(tmp_path: Path) -> None:
    sweep, rows = rows_of(write_sweep(tmp_path))
    write_tables(sweep, rows, tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| variant | cosine |"
    assert lines[2] == "| shifted, num_gaussians 1, kappa 1 | 1.105 ± 0.0071 |"
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + len(rows)


def test_tables_that_cannot_be_written_leave_those_of_before(tmp_path: Path) -> None:
    sweep, rows = rows_of(write_sweep(tmp_path))
    write_tables(sweep, rows, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("table.*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as a disk with ten bytes left
    try:
        with pytest.raises(OSError, match="too large"):
            write_tables(sweep, rows, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.glob("*table.*")} == before
    assert sweep_table(sweep, rows).row_count == len(rows)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a|b", r"a\|b"),
        ("a\nb|c\r\nd", r"a␤b\|c␍␤d"),
        ("<b>*x*</b> `y` [z](u)", r"\<b\>\*x\*\</b\> \`y\` \[z\](u)"),
        ("\\|", r"\\\|"),
        ("~~a~~ &amp; $x$ _y_", r"\~\~a\~\~ \&amp; \$x\$ \_y\_"),
    ],
)
def test_what_markdown_reads_as_its_own_stays_in_its_cell(tmp_path: Path, value: str, written: str) -> None:
    groups = {"g": {"grid": {"train_prior.kappa": [value, "num_steps"]}}}
    path = write_sweep(tmp_path, groups=groups, repeat=None, plots={}, table={f"of {value}": "f", "x": "g"})
    sweep = load_sweep(path)
    rows = [VariantFigures(variant, {"f": [1.0], "g": [2.0]}, 0, 1) for variant in variants_of(sweep)]
    write_tables(sweep, rows, tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() == [
        f"| variant | of {written} | x |",
        "| --- | ---: | ---: |",
        f"| g, kappa {written} | 1 | 2 |",
        "| g, kappa num_steps | 1 | 2 |",
    ]


def test_cells_of_fewer_repeats_report_how_many(tmp_path: Path) -> None:
    """Of three repeats, one failed, and one of the others lacks a metric."""
    repeat = {"keys": ["train_prior.seed"], "values": [0, 1, 2]}
    plots = {"plot": {"figure": "f/steps_*"}}
    table = {"cosine": "train_prior/cosine_true", "one": "f/steps_1", "none": "f"}
    groups = {"shifted": TREE["groups"]["shifted"]}
    sweep = load_sweep(write_sweep(tmp_path, repeat=repeat, table=table, groups=groups, plots=plots))
    runs = open_sweep(sweep, [f"store={tmp_path / 'store'}"])[:6]
    metrics: list[dict[str, float]] = [
        {"train_prior/cosine_true": 0.5, "f/steps_1": 2.0},
        {"train_prior/cosine_true": 0.5},
        {},
    ]
    records = [make_record(f"a-{number}", metrics=found) for number, found in enumerate([*metrics, *[metrics[0]] * 3])]
    records[2] = make_record("a-2", status="failed")
    results = [result_of(run, record, {}) for run, record in zip(runs, records, strict=True)]
    rows = by_variant(results)
    few, all_three = ["0.5 ± 0 (2 of 3)", "2 (1 of 3)", "failed (1 of 3)"], ["0.5 ± 0", "2 ± 0", "-"]
    write_tables(sweep, rows, tmp_path)
    lines = list(csv.reader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert lines[0][-1] == "repeats"
    assert [line[1:] for line in lines[1:]] == [[*few, "3"], [*all_three, "3"]]
    page = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert page[2].endswith(f"| {' | '.join(few)} |")
    assert page[-1] == "mean ± standard deviation of 3 repeats; of fewer where a cell says so"
    columns = [next(iter(column.cells)) for column in sweep_table(sweep, rows).columns[1:]]
    assert list(map(str, columns)) == few
    first, second = sweep_document(rows, results)["variants"]
    of_fewer = {"train_prior/cosine_true": 2, "f/steps_1": 1}
    assert (first["repeats"], first["failed"], first["of_fewer"]) == (3, 1, of_fewer)
    assert (second["repeats"], second["failed"], second["of_fewer"]) == (3, 0, {})
    assert write_plot(sweep.plots["plot"], rows, tmp_path / "marked.png")
    assert write_plot(sweep.plots["plot"], [replace(row, repeats=1) for row in rows], tmp_path / "plain.png")
    assert (tmp_path / "marked.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_runs_that_failed_are_kept_apart(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, groups={"shifted": TREE["groups"]["shifted"]}))
    runs = open_sweep(sweep, [f"store={tmp_path / 'store'}"])[:2]
    metrics = {"train_prior/cosine_true": 0.5}
    records = [make_record("a-1", status=status, metrics=metrics) for status in ("done", "failed")]
    results = [result_of(run, record, {}) for run, record in zip(runs[:2], records, strict=True)]
    (row,) = by_variant(results)
    assert (row.values["train_prior/cosine_true"], row.failed, row.repeats) == ([0.5], 1, 2)
    assert [run["status"] for run in sweep_document([row], results)["runs"]] == ["done", "failed"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.9999999, 0.99999995, 1.0], ["0.9999999", "0.99999995", "1"]),
        ([None, "none", 1e-4], ["none", "'none'", "0.0001"]),
    ],
)
def test_values_that_are_nearly_alike_are_variants_of_their_own(
    tmp_path: Path, values: list[Any], labels: list[str]
) -> None:
    group = {"set": {"b": 2}, "grid": {"a.x": values}}
    variants = list(variants_of(load_sweep(write_sweep(tmp_path, groups={"g": group}))))
    assert [variant.label for variant in variants] == [f"g, x {label}" for label in labels]
    records = [make_record(f"run-{number}", metrics={"cosine": number}) for number in range(2 * len(values))]
    repeated = [(variant, repeat) for variant in variants for repeat in (0, 1)]
    experiment = open_sweep(load_sweep(write_sweep(tmp_path)), [f"store={tmp_path / 'store'}"])[0].experiment
    results = [
        result_of(SweepRun(variant, repeat, experiment), record, {})
        for (variant, repeat), record in zip(repeated, records, strict=True)
    ]
    assert [row.values["cosine"] for row in by_variant(results)] == [[0, 1], [2, 3], [4, 5]]


def test_each_of_several_variants_of_one_label_has_a_curve(tmp_path: Path) -> None:
    """Masked values of secrets read alike."""
    grid = [{"storage.options.s3.secret": secret, "k": k} for secret in ("hidden-1", "hidden-2") for k in (1, 2)]
    rows = [
        VariantFigures(Variant("g", one, one), {"f": [1.0], "f/steps_1": [2.0]}, failed=0, repeats=1) for one in grid
    ]
    assert len({row.variant.label for row in rows}) == 2
    by_name = PlotConfig.model_validate({"figure": "f/steps_*"})
    by_setting = PlotConfig.model_validate({"figure": "f", "x": "k"})
    assert [curve for _, curve in curves_of(by_name, rows)] == [{1.0: [2.0]}] * 4
    assert curves_of(by_setting, rows) == [("g, secret …", {1.0: [1.0], 2.0: [1.0]})] * 2
    assert "hidden" not in json.dumps(sweep_document(rows, []))


def test_figures_that_were_not_measured_alike_are_named_and_seeds_may_differ(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, table={"FD": "evaluate/frechet_distance"}))
    runs = open_sweep(sweep, [])[:3]
    protocols = [{"seed": "0", "features": "A"}, {"seed": "1", "features": "A"}, {"seed": "0", "features": "B"}]
    results = [
        SweepResult(run, make_record(f"run-{number}", **measured(str(number), protocol)), {})
        for number, (run, protocol) in enumerate(zip(runs, protocols, strict=True))
    ]
    assert sweep_warnings(sweep, results[:2]) == []
    assert sweep_warnings(sweep, results) == ["FD: run-2 cannot be compared with run-0, run-1: features B, not A"]


def test_figures_of_plots_alone_are_compared_as_well_each_of_a_curve_and_in_the_plots_groups(tmp_path: Path) -> None:
    plots: dict[str, dict[str, Any]] = {
        "curve": {"figure": "train_prior/cosine/steps_*"},
        "of-one": {"figure": "evaluate/fd", "x": "k"},
        "elsewhere": {"figure": "evaluate/fd", "x": "k", "groups": ["nobody"]},
    }
    sweep = load_sweep(write_sweep(tmp_path)).model_copy(
        update={"plots": {name: PlotConfig.model_validate(plot) for name, plot in plots.items()}}
    )
    results = []
    for number, (run, features) in enumerate(zip(open_sweep(sweep, [])[:2], "AB", strict=True)):
        found = measured(str(number), {"features": features})
        (measure,) = found["measures"].values()
        names = ("train_prior/cosine/steps_1", "train_prior/cosine/steps_20", "evaluate/fd", "evaluate/other")
        record = make_record(f"run-{number}", **found | {"measures": dict.fromkeys(names, measure)})
        results.append(SweepResult(run, record, {}))
    said = "run-1 cannot be compared with run-0: features B, not A"
    assert sweep_warnings(sweep, results) == [f"plots.curve: {said}", f"plots.of-one: {said}"]
    assert sweep_warnings(sweep, results[:1]) == []


def measured(digest: str, protocol: dict[str, str]) -> dict[str, Any]:
    measure = {"value": 4.5, "low": 4.0, "high": 5.0, "n": 240, "protocol": digest}
    return {"measures": {"evaluate/frechet_distance": measure}, "protocols": {digest: protocol}}


def test_the_numbers_of_a_document_are_figures(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, groups={"shifted": TREE["groups"]["shifted"]}))
    run = open_sweep(sweep, [f"store={tmp_path / 'store'}"])[0]
    artifact = Output(str(tmp_path / "artifact"), "train_prior", "x")
    artifact.write_json("validation.json", {"validation_20": {"steps_4": {"cosine": 0.25, "good": True, "why": "a"}}})
    record = make_record(metrics={"a": 1.0}, artifacts={"train_prior": artifact.uri})
    result = result_of(run, record, {"train_prior": "validation.json"})
    assert result.figures == {"a": 1.0, "train_prior/validation_20/steps_4/cosine": 0.25}


@pytest.mark.parametrize(
    "plot",
    [
        {"figure": "train_prior/cosine_true/steps_*", "log_x": True},
        {"figure": "train_prior/cosine_true", "x": "fit_gaussians.num_gaussians", "groups": ["shifted"]},
    ],
)
def test_plots_are_generated(tmp_path: Path, plot: dict[str, Any]) -> None:
    sweep, rows = rows_of(write_sweep(tmp_path, plots={"plot": plot}))
    assert write_plot(sweep.plots["plot"], rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([None, 0.5, 2], ["none", "0.5", "2"]),
        ([[1, 2], [2], {"a": None}, "none", True], ["[1, 2]", "[2]", "{'a': None}", "'none'", "True"]),
        (["$a_$b$", False], ["$a_$b$", "False"]),
        ([3, 1.5], []),
        (["1e-3", 2], []),
    ],
)
def test_values_of_an_axis_that_are_no_numbers_stand_side_by_side(
    tmp_path: Path, values: list[Any], labels: list[str]
) -> None:
    groups = {"g": {"grid": {"k": ["one", "$t^$"], "a.x": values}}}
    sweep = load_sweep(write_sweep(tmp_path, groups=groups, plots={"p": {"figure": "f", "x": "a.x"}}))
    rows = [
        VariantFigures(variant, {"f": [number]}, failed=0, repeats=1)
        for number, variant in enumerate(variants_of(sweep))
    ]
    positions = list(range(len(values)) if labels else map(float, values))
    assert curves_of(sweep.plots["p"], rows) == [
        (f"g, k {k}", {position: [first + number] for number, position in enumerate(positions)})
        for k, first in (("one", 0), ("$t^$", len(values)))
    ]
    assert axis_labels(sweep.plots["p"], rows) == labels
    assert write_plot(sweep.plots["p"], rows, tmp_path / "p.png")


def test_a_figure_of_the_table_that_no_run_has_is_named(tmp_path: Path) -> None:
    sweep, rows = rows_of(write_sweep(tmp_path, table={"cosine": "train_prior/cosine_true", "R@1": "train_prior/r1"}))
    (line,) = missing_figures(sweep, rows)
    assert line.startswith("table.R@1: no run has the figure train_prior/r1 (nearest: train_prior/cosine_true")
    assert missing_figures(sweep, [replace(row, values={}) for row in rows]) == []  # where none ended well


def test_a_plot_of_what_no_run_has_is_not_generated(tmp_path: Path) -> None:
    sweep, rows = rows_of(write_sweep(tmp_path, plots={"plot": {"figure": "nothing/like_*"}}))
    assert not write_plot(sweep.plots["plot"], rows, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grups": {}}, "did you mean 'groups'"),
        ({"plots": {"p": {"figure": "cosine"}}}, "give either one \\* in it, or x"),
        (
            {"plots": {"p": {"figure": "cosine", "x": "train_prior.kapa"}}},
            "plots.p.x is 'train_prior.kapa'.*: give one of fit_gaussians.num_gaussians, train_prior.kappa",
        ),
        (
            {
                "groups": {"g": {"grid": {"a.x": [1, None]}}},
                "plots": {"p": {"figure": "cosine", "x": "a.x", "log_x": True}},
            },
            "plots.p.log_x is true, and a.x has the value none: .*leave out log_x",
        ),
        (
            {"plots": {"p": {"figure": "cosine/*", "groups": ["shifted", "baselin"]}}},
            r"plots.p.groups: found 'baselin'; did you mean 'baseline'\? allowed: shifted, baseline",
        ),
        (
            {"plots": {"p": {"figure": "cosine", "x": "train_prior.kappa", "groups": ["baseline", "shiftd"]}}},
            r"plots.p.groups: found 'shiftd'; did you mean 'shifted'\?",
        ),
        ({"plots": {"p": {"figure": "cosine/*", "groups": []}}}, "plots.p.groups: found no group; leave it out"),
        ({"plots": {"p": {"figure": "cosine/*", "groups": [None]}}}, "plots.p.groups"),
        ({"repeat": {"keys": [], "values": [1]}}, "repeat.keys"),
        ({"table": {}}, "table"),
        (
            {"documents": {"train_priors": "validation.json"}},
            r"documents: found 'train_priors'; did you mean 'train_prior'\? allowed: download_shards, ",
        ),
    ],
)
def test_a_wrong_sweep_is_reported_in_a_sentence(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_sweep(write_sweep(tmp_path, **changes))
