"""Runs side by side: each figure with what it was measured with, and where there is none the reason, never a 0."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pipeline.comparison import comparison_document, comparison_table, format_count, metrics_table
from pipeline.protocols import describe_differences, describe_held_out, group_by_protocol
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.formats.model_folders import save_model
from tests.factories import make_entry, make_record

METRICS = {
    "train_decoder/samples_per_second": 95.5,
    "generate/decoder/images_per_second": 12.25,
    "evaluate/accuracy/color": 0.9, "evaluate/accuracy/shape": 0.8, "evaluate/accuracy/both": 0.75,
    "evaluate/chance/color": 0.125, "evaluate/chance/shape": 1 / 6, "evaluate/chance/both": 1 / 48,
    "evaluate/frechet_distance": 4.5, "evaluate/clip_score/conditioning": 31.25,
}  # fmt: skip
NOTES = {
    "train_decoder": {"samples_per_second": "1 x 2 CPU, batch 32"},
    "generate": {"decoder/images_per_second": "1 CPU, 64 at a time"},
    "evaluate": {"frechet_distance": "CLIP tiny (abc), 240 images", "clip_score/conditioning": "CLIP tiny (abc)"},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a decoder of 7 + 3 numbers, an upsampler of 5, and a prior of 6."""
    store = Store(str(tmp_path))
    for stage, folder, tensors in (
        ("train_decoder", "decoder", {"weight": torch.zeros(7), "mean": torch.zeros(3)}),
        ("train_upsampler", "upsampler", {"weight": torch.zeros(5)}),
        ("train_prior", "prior", {"weight": torch.zeros(2, 3)}),
    ):
        save_model(store.output(stage, "f"), folder, tensors, {})
    return store


def record(run: str = "one-1", kind: str = "stylegan2", **changes: Any) -> RunRecord:
    names = ["train_prior", "train_decoder", "generate", "evaluate"]
    plan = {name: {"fingerprint": "f", "identity": {"kind": kind}} for name in names}
    stages = [make_entry(name, notes=NOTES.get(name, {})) for name in names]
    whole = {"plan": plan, "stages": stages, "metrics": METRICS, "artifacts": dict.fromkeys(names, "x")}
    return make_record(run, **(whole | changes))


def show(*records: RunRecord, store: Store) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_table(records, store))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def line(text: str, start: str) -> str:
    (found,) = [line for line in text.splitlines() if line.strip("│ ").startswith(start)]
    return found


def test_every_figure_is_shown_with_what_it_was_measured_with(store: Store) -> None:
    text = show(record(), record("two-2", "latent_diffusion"), store=store)
    for start, words in {
        "kind of decoder": ["stylegan2", "latent_diffusion"],
        "color right": ["chance 0.125", "0.900"],
        "shape right": ["chance 0.167", "0.800"],
        "both right": ["chance 0.021", "0.750"],
        "Fréchet distance": ["CLIP tiny (abc), 240 images", "4.5"],
        "CLIP score": ["CLIP tiny (abc)", "31.25"],
        "parameters of the decoder": ["10"],
        "parameters of the prior": ["6"],
        "decoder, training": ["1 x 2 CPU, batch 32", "95.5"],
        "decoder, sampling": ["1 CPU, 64 at a time", "12.25"],
    }.items():
        assert all(word in line(text, start) for word in words), start
    assert "its autoencoder included" in text


def test_figures_of_unlike_measurements_are_reported_apart(store: Store) -> None:
    notes = {**NOTES, "evaluate": {**NOTES["evaluate"], "frechet_distance": "Inception-v3, 240 images"}}
    stages = [make_entry(entry.name, notes=notes.get(entry.name, {})) for entry in record().stages]
    other = record("two-2", stages=stages)
    text = show(record(), other, store=store)
    assert "4.5 [1]" in line(text, "Fréchet distance")
    assert "4.5 [2]" in line(text, "Fréchet distance")
    assert "[1] CLIP tiny (abc), 240 images" in text
    assert "[2] Inception-v3, 240 images" in text


def measured(digest: str, **protocol: str) -> dict[str, Any]:
    """A record's Fréchet distance of 240 images under a protocol."""
    measure = {"value": 4.5, "low": 4.0, "high": 5.0, "n": 240, "protocol": digest}
    return {"measures": {"evaluate/frechet_distance": measure}, "protocols": {digest: protocol}}


def test_figures_of_different_protocols_stand_in_rows_of_their_own(store: Store) -> None:
    clip, other = measured("a", features="CLIP tiny", seed="0"), measured("b", features="Inception-v3", seed="0")
    records = [record("one-1", **clip), record("two-2", **other), record("three-3", **clip), record("old-4")]
    text = show(*records, store=store)
    rows = [row for row in text.splitlines() if row.strip("│ ").startswith("Fréchet distance (")]
    assert [row.count("4.5") for row in rows] == [2, 1, 1]
    assert [row.count("4.5 (4 to 5, n 240)") for row in rows] == [2, 1, 0]
    assert (
        "Fréchet distance: two-2 cannot be compared with one-1, three-3: features Inception-v3, not CLIP tiny" in text
    )
    assert "Fréchet distance: old-4 cannot be compared with one-1, three-3: its protocol was not recorded" in text
    assert len([row for row in text.splitlines() if row.strip("│ ").startswith("CLIP score (")]) == 1

    document = comparison_document(records, store)
    assert len(document["not_comparable"]) == 2
    figure = document["runs"]["two-2"]["figures"]["frechet_distance"]
    assert (figure["low"], figure["high"], figure["n"], figure["protocol"]) == (4.0, 5.0, 240, "b")


def test_a_table_of_all_metrics_keeps_protocols_apart(store: Store) -> None:
    records = [record("one-1", **measured("a", images="240")), record("two-2", **measured("b", images="30000"))]
    console = Console(file=io.StringIO(), width=200)
    console.print(metrics_table(records))
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    rows = [row for row in text.splitlines() if "evaluate/frechet_distance" in row and "4.5" in row]
    assert [row.count("4.5 (4 to 5, n 240)") for row in rows] == [1, 1]
    assert "two-2 cannot be compared with one-1: images 30000, not 240" in text


def validated(digest: str, **protocol: str) -> dict[str, Any]:
    """A record of a prior's validation: one figure with a protocol, one without."""
    measure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20, "protocol": digest}
    metrics = {"train_prior/cosine_true": 0.5, "train_prior/cosine_true/steps_4": 0.25, "train_prior/rate": 7.0}
    return {"metrics": metrics, "measures": {"train_prior/cosine_true": measure}, "protocols": {digest: protocol}}


def test_validations_on_other_held_out_images_are_reported_also_of_figures_without_a_protocol(store: Store) -> None:
    one, other = validated("a", validated="k1", seed="0"), validated("b", validated="k2", seed="0")
    records = [record("old-0", metrics={}), record("one-1", **one), record("two-2", **other), record("three-3", **one)]
    console = Console(file=io.StringIO(), width=220)
    console.print(metrics_table(records))
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    assert line(text, "train_prior/cosine_true (1 of 2, not comparable)").count("0.5 (") == 2
    assert line(text, "train_prior/cosine_true (2 of 2, not comparable)").count("0.5 (") == 1
    assert line(text, "train_prior/cosine_true/steps_4").count("0.25") == 3
    said = "train_prior: what two-2 found in validation is of other held-out images than in one-1, three-3: none of"
    assert said in text
    assert "two-2 cannot be compared with one-1, three-3: it was validated on other held-out images, digest" in text
    assert [row.startswith(said) for row in comparison_document(records, store)["not_comparable"]] == [True]
    console.print(metrics_table([records[1], records[3]]))
    assert str(console.file.getvalue())[len(text) :].count("comparable") == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "now", "whole", "below"),
    [
        ({"held_out": "k1"}, {"validated": "k2", "captions": "human, digest t"},
         "whether what two-2 and one-1 found in validation can be compared is not known: an earlier version recorded",
         "two-2 cannot be compared with one-1: an earlier version recorded the split, and not which held-out images"),
        ({"held_out": "k1"}, {"held_out": "k2"},
         "whether what two-2 and one-1 found in validation can be compared is not known: an earlier version recorded",
         "two-2 cannot be compared with one-1: it was validated by another split of the images, digest of the keys"),
        ({"validated": "k1", "captions": "human, digest t"}, {"validated": "k1", "captions": "pseudo, digest u"},
         "what two-2 found in validation is of other captions than in one-1: none of these figures can be compared",
         "two-2 cannot be compared with one-1: it was validated on other captions, pseudo, digest u, not human"),
    ],
    ids=["of an earlier version and now", "of earlier versions", "on other captions"],
)  # fmt: skip
def test_what_is_said_of_two_validations_is_what_is_known(
    before: dict[str, str], now: dict[str, str], whole: str, below: str
) -> None:
    records = [record("one-1", **validated("a", **before)), record("two-2", **validated("b", **now))]
    (said,) = describe_held_out(records)
    assert said.startswith(f"train_prior: {whole}")
    groups = group_by_protocol(records, ["train_prior/cosine_true"] * 2)
    (line,) = describe_differences("cosine", groups, records)
    assert line.startswith(f"cosine: {below}")


def test_a_figure_without_an_interval_has_its_number(store: Store) -> None:
    found = measured("a", seed="0")
    found["measures"]["evaluate/frechet_distance"] |= {"low": None, "high": None, "n": 30_000}
    assert "4.5 (n 30,000)" in line(show(record(**found), store=store), "Fréchet distance")


def test_the_independent_clip_score_is_shown_where_there_is_one(store: Store) -> None:
    text = show(record(metrics=METRICS | {"evaluate/clip_score/independent": 27.5}), store=store)
    assert "27.5" in line(text, "CLIP score")


def test_a_missing_figure_is_explained_and_is_not_0(store: Store) -> None:
    stages = [
        make_entry("train_decoder"),
        make_entry("generate", "failed"),
        make_entry("evaluate", notes={"frechet_distance": "the prompts have no true images"}),
    ]
    plan = {"train_decoder": {"fingerprint": "f", "identity": {"kind": "stylegan2"}}}
    bare = record("bare-1", metrics={}, artifacts={}, stages=stages, plan=plan)
    text = show(record(), bare, store=store)
    reasons = {
        "Fréchet distance": "the prompts have no true images",
        "decoder, sampling": "generate is failed",
        "decoder, training": "train_decoder did not measure it when it made this artifact",
        "parameters of the prior": "the run has no stage train_prior",
        "color right": "the scene checker evaluates images of set prior",
    }
    for start, reason in reasons.items():
        number = line(text, start).rpartition("— [")[2].partition("]")[0]
        assert f"[{number}] {reason}" in text, start
    figures = comparison_document([bare], store)["runs"]["bare-1"]["figures"]
    assert {figure["value"] for figure in figures.values()} == {None}
    assert all(figure["about"] for figure in figures.values())


def test_an_interrupted_run_is_reported_as_one(store: Store) -> None:
    broken = record(stages=[], metrics={}, artifacts={})
    figures = comparison_document([broken], store)["runs"]["one-1"]["figures"]
    assert figures["frechet_distance"] == {"value": None, "about": "evaluate is not finished"}
    assert figures["decoder_parameters"] == {"value": None, "about": "train_decoder is not finished"}


def test_a_cascade_counts_and_names_all_its_models(store: Store) -> None:
    names = ["train_prior", "train_decoder", "generate", "evaluate", "train_upsampler"]
    plan = {name: {"fingerprint": "f", "identity": {"kind": "pixel_diffusion"}} for name in names}
    metrics = METRICS | {"train_upsampler/samples_per_second": 40.0}
    cascade = record(plan=plan, artifacts=dict.fromkeys(names, "x"), metrics=metrics)
    figures = comparison_document([cascade], store)["runs"]["one-1"]
    assert figures["decoder"] == "pixel_diffusion + 1 upsampler"
    assert figures["figures"]["decoder_parameters"]["value"] == 15
    assert figures["figures"]["training_images_per_second"]["about"] == "1 x 2 CPU, batch 32; train_upsampler: 40"


def test_a_model_that_is_gone_is_reported(store: Store) -> None:
    store.output("train_prior", "f").remove("prior")
    figure = comparison_document([record()], store)["runs"]["one-1"]["figures"]["prior_parameters"]
    assert figure == {"value": None, "about": "its artifact is not in the store any more"}


def test_all_metrics_are_shown_on_request() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(metrics_table([record(), record("two-2", metrics={"evaluate/accuracy/both": 0.5})]))
    found = line(str(console.file.getvalue()), "evaluate/accuracy/both")  # type: ignore[attr-defined]
    assert "0.75" in found
    assert "0.5" in found


def test_counts_are_formatted_in_thousands_millions_and_billions() -> None:
    assert [format_count(n) for n in (999, 1234, 56_780_000, 1.34e9)] == ["999", "1.23 k", "56.8 M", "1.34 B"]


def test_which_captions_were_read_is_shown(store: Store) -> None:
    plan = {
        "train_clip": {"fingerprint": "f", "identity": {"captions": {"fraction": 1.0, "seed": 0}}},
        "train_prior": {"fingerprint": "f", "identity": {"kind": "a", "captions": {"fraction": 0.1, "seed": 0}}},
    }
    stages = [make_entry("train_clip", counts={"captioned": 5000}), make_entry("train_prior")]
    text = show(record(plan=plan, stages=stages), record("two-2"), store=store)
    assert "10%" in line(text, "captions that the prior reads")
    assert "100%" in line(text, "captions that train_clip reads")
    assert "5,000 captioned images" in text
    assert "the run has no stage train_clip" in text


def test_the_parameters_of_a_decoder_of_another_version_are_counted(store: Store) -> None:
    text = show(record(kind="of another version"), store=store)
    assert "10" in line(text, "parameters of the decoder")
    plan = {"train_upsampler": {"fingerprint": "f", "identity": {}}}
    alone = show(record(plan=plan, artifacts={"train_upsampler": "x"}), store=store)
    assert "5" in line(alone, "parameters of the decoder")
