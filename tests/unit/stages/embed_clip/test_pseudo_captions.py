"""Pseudo-captions beside human ones: embedded, mixed by weight, not validated on; nothing changes without them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.item_progress import begin_item, samples_of_item
from pipeline.captions import format_captions
from pipeline.config.loading import load_config
from pipeline.errors import UsageError
from pipeline.plan import make_plan
from pipeline.store import Store
from stages.caption_images.config import CaptionImagesConfig
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run
from stages.formats.captions import CaptionsConfig, choose_captions, select_captioned
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.embeddings.reader import (
    load_captioned_rows,
    load_pseudo_captions,
    load_pseudo_rows,
    load_text_rows,
    open_text_states,
)
from stages.formats.pseudo_captions import (
    CaptionedImage,
    Captioner,
    CaptionStatus,
    count_images,
    write_pseudo_captions,
)
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.captions import CaptionRows
from stages.train_prior.data import load_pairs
from tests.factories import make_context, save_tiny_clip
from tests.unit.stages.embed_clip.test_texts import write_shard
from tests.unit.stages.train_prior.pieces import prior_config

MIX = {"human": 0.7, "pseudo": 0.3}
HUMAN = 24  # of so many images the first ones have human captions
IMAGES = 60


def key(row: int) -> str:
    return f"00000{row:04d}"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("shards")
    words = ["a red star", "blue ring", "a green cross"]
    write_shard(folder, "00000", [[words[row % 3]] if row < HUMAN else [] for row in range(IMAGES)])
    return Artifact(str(folder), "download_shards", "s")


def write_captions(folder: Path) -> Output:
    """Write two pseudo-captions of every image but the first."""
    output = Output(str(folder), "caption_images", "p")
    Captioner(
        reference="m", model_type="git", digest="d", num_captions=2, max_new_tokens=9, num_beams=1, temperature=1.0,
        images="all",
    ).write(output)  # fmt: skip
    images = [
        CaptionedImage(key(row), CaptionStatus.CAPTIONED, ["small teal square", "white circle"] if row else [])
        for row in range(IMAGES)
    ]
    write_pseudo_captions(output, "00000", images)
    count_images(images, {}).finish(output, "00000")
    return output


@pytest.fixture(scope="module")
def embedded(shards: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """The embeddings without pseudo-captions, and with them."""
    root = tmp_path_factory.mktemp("embedded")
    clip = {"models": [{"kind": "folder", "path": save_tiny_clip(root / "clip")}]}
    config = EmbedClipConfig.model_validate({"clip": clip, "storage": "float32", "text_states": {"clip": True}})
    found = {}
    for name, more in (("without", {}), ("with", {"caption_images": write_captions(root / "captions")})):
        found[name] = Output(str(root / name), "embed_clip", name)
        run(config, {"download_shards": shards} | more, found[name], make_context())
    return found


def test_a_worker_reports_the_progress_of_its_shard(shards: Artifact, tmp_path: Path) -> None:
    clip = {"models": [{"kind": "folder", "path": save_tiny_clip(tmp_path / "clip")}]}
    begin_item()
    run(EmbedClipConfig.model_validate({"clip": clip}), {"download_shards": shards},
        Output(str(tmp_path), "embed_clip", "e"), make_context())  # fmt: skip
    assert samples_of_item() == IMAGES


def test_human_files_stay_as_they_are_and_pseudo_captions_have_their_own(embedded: dict[str, Output]) -> None:
    without, having = (Path(embedded[name].uri) for name in ("without", "with"))
    for kind in ("img_emb/img_emb_00000.npy", "text_emb/text_emb_00000.npy", "metadata/metadata_00000.parquet"):
        assert (without / kind).read_bytes() == (having / kind).read_bytes()
    new = {str(path.relative_to(having)) for path in having.rglob("*") if path.is_file()}
    assert new - {str(path.relative_to(without)) for path in without.rglob("*")} == {
        "captioner.json", "pseudo_captions/pseudo_captions_00000.parquet", "pseudo_text_emb/pseudo_text_emb_00000.npy",
    }  # fmt: skip
    record = EmbeddingsRecord.done(embedded["with"])["00000"]
    assert (record.captioned, record.pseudo_captioned, record.pseudo_captions) == (HUMAN, IMAGES - 1, 2 * (IMAGES - 1))
    assert load_pseudo_captions(embedded["with"], "00000")[:2] == [[], ["small teal square", "white circle"]]


def test_each_caption_has_its_own_embedding_and_states(embedded: dict[str, Output]) -> None:
    captions = CaptionsConfig.model_validate({"mix": MIX})
    rows = load_captioned_rows(embedded["with"], "00000", captions)
    assert len(rows.keys) == IMAGES
    assert rows.num_human.tolist() == [int(row < HUMAN) for row in range(IMAGES)]
    assert rows.num_captions.tolist() == [1, *([3] * (HUMAN - 1)), *([2] * (IMAGES - HUMAN))]
    human = load_captioned_rows(embedded["without"], "00000", CaptionsConfig())
    starts = np.cumsum([0, *rows.num_captions])
    np.testing.assert_array_equal(rows.text[starts[:HUMAN]], human.text)
    states = open_text_states(embedded["with"], "00000", "clip", width=32)
    square, circle = (states.of(int(rows.state_rows[starts[30] + number])) for number in (0, 1))
    assert (len(square), len(circle)) == (5, 4)  # of three words and of two, with start and end


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, 3.0), (0.0, 1.0), (1.0, 0.0)])
def test_captions_are_chosen_by_weight_and_uniformly_within(weights: tuple[float, float]) -> None:
    """Each frequency is within 5 standard deviations, for images of both kinds and of one."""
    count = 20_000
    uniform = np.random.default_rng(1).random(count)
    h = weights[0] / sum(weights)
    for human, pseudo, expected in (
        (2, 3, [h / 2] * 2 + [(1 - h) / 3] * 3), (2, 0, [0.5, 0.5]), (0, 4, [0.25] * 4), (1, 1, [h, 1 - h]),
    ):  # fmt: skip
        of = (np.full(count, human), np.full(count, pseudo))
        found = np.bincount(choose_captions(uniform, *of, h), minlength=human + pseudo) / count
        bound = 5 * np.sqrt(np.array(expected) * (1 - np.array(expected)) / count)
        assert (np.abs(found - expected) <= bound).all(), (human, pseudo, found)
    last = choose_captions(np.array([1 - 2**-53]), np.array([2]), np.array([3]), h)
    assert last.tolist() == [4 if h < 1 else 1]


def load(embeddings: Output, **captions: Any) -> Any:
    return load_pairs(prior_config("gaussian", captions=captions, split={"validation": 0.3}), embeddings)


def test_pseudo_captions_are_trained_on_and_people_s_validated_on(embedded: dict[str, Output]) -> None:
    plain, mixed = load(embedded["without"]), load(embedded["with"], mix=MIX)
    assert torch.equal(plain.held_out.image, mixed.held_out.image)
    assert torch.equal(plain.held_out.text, mixed.held_out.text)
    assert (plain.human_images, plain.pseudo_images) == (HUMAN, 0)
    assert (mixed.human_images, mixed.pseudo_images, mixed.on_pseudo) == (HUMAN, IMAGES - 1, False)
    assert len(mixed.train) > len(plain.train)
    assert len(mixed.train) + mixed.record.validation_images == IMAGES


def test_the_fraction_is_of_human_captions_alone(embedded: dict[str, Output]) -> None:
    half, mixed = load(embedded["without"], fraction=0.5), load(embedded["with"], fraction=0.5, mix=MIX)
    assert 0 < half.human_images == mixed.human_images < HUMAN
    assert mixed.pseudo_images == IMAGES - 1
    none = load(embedded["with"], fraction=0.5, mix={"human": 1, "pseudo": 0})
    assert torch.equal(none.train.text, half.train.text)


def test_without_human_captions_pseudo_captions_are_validated_on(embedded: dict[str, Output]) -> None:
    found = load(embedded["with"], fraction=0.0, mix=MIX)
    assert found.on_pseudo
    assert found.human_images == 0
    assert len(found.held_out) == found.record.validation_images


def test_a_weight_of_nothing_leaves_human_captions_out_of_training_alone(embedded: dict[str, Output]) -> None:
    found = load(embedded["with"], mix={"human": 0, "pseudo": 1})
    assert torch.equal(found.held_out.text, load(embedded["without"]).held_out.text)
    rows = torch.arange(len(found.train))
    chosen = found.train.take(rows, torch.full((len(rows),), 0.0))[1].embedding
    assert len(chosen.unique(dim=0)) == 1  # the first pseudo-caption, which all images share


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.0, 1.0), (1.0, 0.0)])
def test_a_decoder_reads_each_kind_by_its_weight(embedded: dict[str, Output], weights: tuple[float, float]) -> None:
    mix = dict(zip(MIX, weights, strict=True))
    captions = CaptionsConfig.model_validate({"fraction": 0.5, "mix": mix})
    rows = CaptionRows(embedded["with"], ["00000"], captions, where="condition")
    usable = select_captioned([key(row) for row in range(HUMAN)], captions)
    both, other = int(np.flatnonzero(usable)[1]), int(np.flatnonzero(~usable)[1])
    human, pseudo = load_text_rows(embedded["with"], "00000"), load_pseudo_rows(embedded["with"], "00000")
    numbers = (np.arange(100) + 0.5) / 100
    for row, is_human in ((both, True), (other, False), (HUMAN, False)):
        found = rows.choose(np.array([[0, row]] * 100), numbers)
        assert (found == human[row]).all(1).sum() == round(100 * weights[0]) * is_human
        halves = [int((found == one).all(1).sum()) for one in pseudo[row]]
        assert halves[0] == halves[1] == (weights[1] > 0) * (50 - round(50 * weights[0]) * is_human)
    assert np.isnan(rows.choose(np.array([[0, 0]]), numbers[:1])).all() == (not usable[0] or not weights[0])
    readable = {HUMAN, both} | ({other} if weights[1] else set())
    assert readable - {HUMAN} <= {row for _, row in rows.rows_at(indices_of(rows)).tolist()}


def indices_of(rows: CaptionRows) -> np.ndarray:
    return np.array([[0, number] for number in range(rows.sizes()[0])])


EXPERIMENT: dict[str, Any] = {
    "download_shards": {"source": {"kind": "scenes", "num_images": 40}, "image_size": 32},
    "clip": {"models": [{"kind": "pretrained", "name": "ViT-B-32", "tag": "openai"}]},
    "captions": {"fraction": 0.25},
    "embed_clip": {},
    "filter_samples": {"clip_score": {"minimum": 0.2}},
    "fit_gaussians": {"num_gaussians": 2},
    "train_clip": {"captions": {"fraction": 0.5}},
    "train_prior": {
        "kind": "shifted", "training": {"num_steps": 4, "batch_size": 2, "learning_rate": 0.1},
    },
}  # fmt: skip
#: Those that the version before caption_images gave, and, from filter_samples on, those of its version 3.
FINGERPRINTS = {
    "download_shards": "fd3951ed9c1981ef",
    "train_clip": "bc24fdf4fdff1ae8",
    "embed_clip": "ef695483f4bb981e",
    "filter_samples": "8faac9f4ad6b84f2",
    "fit_gaussians": "fb6f72fc098c92cf",
    "train_prior": "2d63eabeca4f734a",
}


def plan_of(folder: Path, *overrides: str, **changes: Any) -> Any:
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(EXPERIMENT | changes))
    return make_plan(load_config(file, overrides), Store(str(folder / "store")))


def test_without_the_stage_nothing_changes(tmp_path: Path) -> None:
    assert {name: stage.fingerprint for name, stage in plan_of(tmp_path).stages.items()} == FINGERPRINTS


def test_with_the_stage_its_readers_change_and_report_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    made = {"caption_images": {"model": {"path": str(tmp_path / "model")}}}
    stages = plan_of(tmp_path, **made).stages
    same = {name for name, found in FINGERPRINTS.items() if stages[name].fingerprint == found}
    assert same == {"download_shards"}
    assert stages["embed_clip"].inputs == ("download_shards", "caption_images")
    assert stages["embed_clip"].streams_from == ("download_shards", "caption_images")
    assert format_captions(stages["train_prior"].identity) == "25% human, pseudo mixed in at 30%"
    assert format_captions(stages["train_clip"].identity) == "50% human, pseudo mixed in at 30%"
    weighed = plan_of(tmp_path, "captions.mix={human: 1, pseudo: 0}", **made).stages
    assert format_captions(weighed["train_prior"].identity) == "25% human, no pseudo-captions"
    assert weighed["embed_clip"].fingerprint == stages["embed_clip"].fingerprint
    assert plan_of(tmp_path, "captions.fraction=0", **made).stages["train_prior"].state == "new"


def test_weights_of_pseudo_captions_need_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"captions.mix weighs pseudo-captions, which no stage makes"):
        plan_of(tmp_path, "captions.mix={human: 1, pseudo: 1}")
    with pytest.raises(UsageError, match="human and pseudo are both 0"):
        plan_of(tmp_path, "captions.mix={human: 0, pseudo: 0}")
    assert CaptionImagesConfig.model_fields["images"].default == "all"
