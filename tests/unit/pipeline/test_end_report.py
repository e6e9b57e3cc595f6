"""What a run says at its end."""

from typing import Any

import pytest

from pipeline.end_report import end_lines
from tests.factories import make_entry, make_record

STAGES = [
    make_entry("download_shards", counts={"images": 5000, "captioned": 500, "failed_timeout": 7, "skipped_hidden": 2}),
    make_entry("train_prior", counts={"captioned": 50, "held_out_pairs": 40}),
    make_entry("evaluate", notes={"clip_score/conditioning": "CLIP tiny", "frechet_distance": "CLIP tiny, 240 images"}),
]
METRICS = {
    "train_prior/cosine_true": 0.9, "train_prior/cosine_unrelated": 0.1, "train_prior/retrieval_at_1": 0.25,
    "evaluate/accuracy/both": 0.8, "evaluate/control/unrelated/both": 0.02,
    "evaluate/control/text_embedding/both": 0.5, "evaluate/reconstruction/both": 0.9,
    "evaluate/clip_score/conditioning": 31.25, "evaluate/frechet_distance": 12.5,
    "evaluate/frechet_distance/true_halves": 3.0,
}  # fmt: skip
PLAN = {
    "train_prior": {"fingerprint": "p", "identity": {"captions": {"fraction": 0.1}}},
    "train_decoder": {"fingerprint": "d", "identity": {}},
}
TRAINED = {"train_prior": "/s/p", "train_decoder": "/s/d", "generate": "/s/artifacts/generate/g"}


def lines_of(**changes: Any) -> list[str]:
    fields: dict[str, Any] = {
        "stages": STAGES, "metrics": METRICS, "plan": PLAN, "artifacts": TRAINED,
        "config": {"store": "s3://bucket/corgi", "generate": {}},
    }  # fmt: skip
    return end_lines(make_record("mine-1", **fields | changes))


def test_a_run_ends_with_what_was_used_what_it_is_worth_and_what_is_next() -> None:
    lines = lines_of()
    assert lines[0] == (
        "used: 5,000 images, 500 of them captioned; train_prior read 10% of the captions (50 captioned images); "
        "lost: 7 timeout; skipped: 2 hidden"
    )
    assert lines[1] == (
        "prior: cosine to the true embedding 0.900, to others' 0.100; finds its image among 40 first in 25.0% "
        "(40 held-out pairs)"
    )
    assert lines[2] == (
        "images: as asked 80.0% (unrelated captions 2.0%, without the prior 50.0%, from true embeddings 90.0%); "
        "CLIP score 31.2 by CLIP tiny; Fréchet distance 12.5 (true halves 3.0) by CLIP tiny, 240 images"
    )
    assert lines[3].startswith("take care: 40 held-out pairs say little")
    assert lines[4] == "images lie in: /s/artifacts/generate/g/grid.png"
    assert [line.partition(":")[0] for line in lines[5:]] == ["generate", "give it away", "dashboard"]
    assert all("--store s3://bucket/corgi" in line for line in lines[5:])
    assert "export mine-1 my-model" in lines[6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": METRICS | {"evaluate/control/text_embedding/both": 0.85}}, "the prior adds nothing"),
        ({"plan": PLAN | {"train_clip": {"fingerprint": "c", "identity": {}}}}, "train_clip may have learned from"),
    ],
)
def test_figures_that_mislead_are_named(changes: dict[str, Any], words: str) -> None:
    assert any(line.startswith("take care: ") and words in line for line in lines_of(**changes))
    assert not any(words in line for line in lines_of())


def test_what_no_person_wrote_is_said() -> None:
    mixed = {"captions": {"fraction": 0.25, "seed": 0, "mix": {"human": 0.5, "pseudo": 1.5}}}
    notes = {"validated_on": "pseudo-captions, as there is nothing else"}
    prior = make_entry("train_prior", counts={"captioned": 3, "pseudo_captioned": 9}, notes=notes)
    made = make_entry(
        "caption_images", counts={"pseudo_captions": 9, "pseudo_captioned": 9, "empty_pseudo_captions": 1}
    )
    lines = lines_of(stages=[*STAGES[:1], made, prior], plan={"train_prior": {"fingerprint": "p", "identity": mixed}})
    assert "9 pseudo-captions of 9 images, 1 empty ones left out" in lines[0]
    assert "train_prior read 25% of the captions (3 captioned images) and pseudo-captions of 9 images" in lines[0]
    assert any("train_prior is validated on pseudo-captions" in line for line in lines)


def test_many_pairs_need_no_warning_and_a_run_without_a_model_is_to_be_looked_at() -> None:
    many = [*STAGES[:1], make_entry("train_prior", counts={"held_out_pairs": 200}), STAGES[2]]
    assert not any(line.startswith("take care") for line in lines_of(stages=many))
    data_only = lines_of(stages=STAGES[:1], metrics={}, plan={}, artifacts={}, config={})
    assert [line.partition(":")[0] for line in data_only] == ["used", "look at it"]
    assert "inspect mine-1" in data_only[1]


def test_figures_are_said_with_their_intervals_and_numbers() -> None:
    measures = {
        "evaluate/accuracy/both": {"value": 0.8, "low": 0.75, "high": 0.85, "n": 240, "protocol": "a"},
        "evaluate/frechet_distance": {"value": 12.5, "low": 11.0, "high": 14.0, "n": 1240, "protocol": "a"},
        "evaluate/clip_score/conditioning": {"value": 31.25, "low": None, "high": None, "n": 240, "protocol": "a"},
    }
    assert lines_of(measures=measures)[2] == (
        "images: as asked 80.0% (95% 75.0% to 85.0%, n 240; unrelated captions 2.0%, without the prior 50.0%, "
        "from true embeddings 90.0%); CLIP score 31.2 by CLIP tiny; "
        "Fréchet distance 12.5 (95% 11.0 to 14.0, n 1,240; true halves 3.0) by CLIP tiny, 240 images"
    )
