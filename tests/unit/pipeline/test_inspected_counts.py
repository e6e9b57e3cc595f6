"""What ``corgi inspect`` counts: of how many rows some were lost, and what an unfinished stage has done so far."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.inspection.inspect import Target, inspect
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError
from stages.contract.stage import StageSummary
from stages.storage.artifact import COMPLETE

LOST = "losses by cause"


def tables_of(
    folder: Path, stage: str, units: Mapping[str, Mapping[str, Any]], summary: StageSummary | None = None
) -> dict[str, Any]:
    """Return what is found of an artifact of these units, whole if it has a summary."""
    store = Store(str(folder))
    output = store.output(stage, "f0")
    for name, record in units.items():
        output.finish_unit(name, dict(record))
    if summary is not None:
        Manifest(stage=stage, fingerprint="f0", code_version=1, config={}, inputs={}, summary=summary).write(output)
        output.write_bytes(COMPLETE, b"")
    (found,) = inspect(Target("one", store, (store.artifact(stage, "f0"),)), max_shards=0)
    tables = found.to_json()["tables"]
    assert isinstance(tables, dict)
    return tables


@pytest.mark.parametrize("is_complete", [True, False])
def test_what_a_filter_removed_is_a_fraction_of_all_that_it_saw(tmp_path: Path, is_complete: bool) -> None:
    units = {
        "00000": {"rows": 50, "captioned": 9, "removed": {"near_duplicate": 10}},
        "00001": {"rows": 30, "captioned": 8, "removed": {"near_duplicate": 5, "low_clip_score": 5}},
    }
    counts = {"images": 80, "captioned": 17, "removed_low_clip_score": 5, "removed_near_duplicate": 15}
    summary = StageSummary(100, counts=counts, metrics={"kept": 0.8})
    assert tables_of(tmp_path, "filter_samples", units, summary if is_complete else None)[LOST] == [
        {"cause": "removed_near_duplicate", "count": 15, "fraction of rows": "15.00%"},
        {"cause": "removed_low_clip_score", "count": 5, "fraction of rows": "5.00%"},
    ]


@pytest.mark.parametrize("is_complete", [True, False])
def test_what_could_not_be_encoded_is_a_fraction_of_all_images(tmp_path: Path, is_complete: bool) -> None:
    units = {str(number): {"rows": 40, "failures": {"corrupt_image": 10}} for number in range(2)}
    summary = StageSummary(80, counts={"images": 80, "failed_corrupt_image": 20})
    assert tables_of(tmp_path, "encode_latents", units, summary if is_complete else None)[LOST] == [
        {"cause": "failed_corrupt_image", "count": 20, "fraction of rows": "20.00%"}
    ]


def test_entries_that_a_download_lost_are_a_fraction_of_its_rows(tmp_path: Path) -> None:
    units = {
        str(number): {"rows": 50, "images": 40, "captioned": 9, "failures": {"timeout": 10}} for number in range(2)
    }
    assert tables_of(tmp_path, "download_shards", units)[LOST] == [
        {"cause": "failed_timeout", "count": 20, "fraction of rows": "20.00%"}
    ]


def test_samples_that_a_training_left_out_are_no_fraction_of_its_steps_times_batch(tmp_path: Path) -> None:
    units = {"model": {"step": 3000, "metrics": {}, "failures": {"corrupt_image": 3}}}
    summary = StageSummary(96_000, counts={"failed_corrupt_image": 3})
    assert tables_of(tmp_path, "train_autoencoder", units, summary)[LOST] == [
        {"cause": "failed_corrupt_image", "count": 3}
    ]


def test_an_unfinished_training_is_as_far_as_its_last_checkpoint(tmp_path: Path) -> None:
    units: dict[str, dict[str, Any]] = {
        f"checkpoint_{step:08d}": {"step": step, "parts": ["weights"], "skipped": skipped}
        for step, skipped in ((9000, 1), (10_000, 1), (11_000, 2))
    }
    found = tables_of(tmp_path / "a", "train_decoder", units)["counts"]
    assert found == {"finished units": 3, "step": 11_000, "skipped": 2}
    units["model"] = {"step": 11_000, "metrics": {}, "failures": {"corrupt_image": 3}}
    assert tables_of(tmp_path / "b", "train_decoder", units)[LOST] == [{"cause": "failed_corrupt_image", "count": 3}]


@pytest.mark.parametrize("record", [{"failures": []}, {"failures": {"a": "x"}}, {"removed": 5}, {"step": "x"}])
def test_what_counts_nothing_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    for stage in ("download_shards", "train_prior"):
        with pytest.raises(ArtifactError, match=r"units/00000\.json: found no counts under failures, removed, or no"):
            tables_of(tmp_path, stage, {"00000": record, "00001": {"step": 4}})


def test_artifacts_that_name_one_another_are_asked_once(tmp_path: Path) -> None:
    store, stages = Store(str(tmp_path)), ("embed_clip", "download_shards")
    for stage, source in zip(stages, reversed(stages), strict=True):
        summary = StageSummary(0)
        made = Manifest(stage=stage, fingerprint="f", code_version=1, config={}, inputs={source: "f"}, summary=summary)
        made.write(store.output(stage, "f"))
    target = Target("one", store, ())
    assert target.input_of(store.artifact("embed_clip", "f"), "train_prior") is None
    assert target.input_of(store.artifact("embed_clip", "f"), "download_shards") == store.artifact(
        "download_shards", "f"
    )
