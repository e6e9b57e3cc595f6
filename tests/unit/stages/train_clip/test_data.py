"""train_clip reads the captions that the experiment allows, or those that its own key allows, and says so."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.loading import load_config
from pipeline.errors import UsageError
from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.splits import SplitConfig
from stages.storage.artifact import Output
from stages.train_clip.config import TrainClipConfig
from stages.train_clip.data import CaptionedImages
from stages.train_clip.stage import run
from tests.unit.stages.encoded import context, encoded_square
from tests.unit.stages.train_clip.test_images import config, make_shards

CONFIGS = Path(__file__).parents[4] / "configs"


def captioned(folder: Path, num: int, usable: CaptionsConfig) -> CaptionedImages:
    shards = make_shards(folder, [(encoded_square(row), "png") for row in range(num)])
    return CaptionedImages({"download_shards": shards}, usable, image_size=16)


def all_keys(images: CaptionedImages) -> list[str]:
    return [key for shard in range(len(images.sizes)) for key in images.shard_keys(shard)]


def test_the_captions_are_those_that_a_prior_of_the_experiment_may_read(tmp_path: Path) -> None:
    usable = CaptionsConfig(fraction=0.3, seed=5)
    images = captioned(tmp_path, 200, usable)
    keys = [f"{row:05d}" for row in range(200)]
    chosen = select_captioned(keys, usable)
    assert all_keys(images) == [key for key, is_usable in zip(keys, chosen, strict=True) if is_usable]
    assert images.captions(np.array([[0, 0]])) == [f"caption {int(all_keys(images)[0])}"]
    assert images.in_shards == 200
    few = captioned(tmp_path / "few", 200, CaptionsConfig(fraction=0.1, seed=5))
    assert set(all_keys(few)) < set(all_keys(images))


@pytest.mark.parametrize("fraction", [0.02, 0.1, 1.0])
def test_pairs_are_held_out_whatever_the_fraction_of_captions(tmp_path: Path, fraction: float) -> None:
    images = captioned(tmp_path, 1500, CaptionsConfig(fraction=fraction, seed=0))
    pairs, held_out, _ = images.split(SplitConfig(validation=0.2))
    assert len(held_out) / (len(pairs) + len(held_out)) == pytest.approx(0.2, abs=0.15)


def test_the_tokenizer_and_the_counts_are_of_these_captions_alone(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s", [(encoded_square(row), "png") for row in range(60)])
    output = Output(str(tmp_path / "out"), "train_clip", "c")
    section = config(captions={"fraction": 0.5}, training={"num_steps": 1, "batch_size": 4, "precision": "float32"})
    summary = run(section, {"download_shards": shards}, output, context())
    usable = int(select_captioned([f"{row:05d}" for row in range(60)], CaptionsConfig(fraction=0.5)).sum())
    assert (summary.counts["captioned"], summary.counts["captioned_in_shards"]) == (usable, 60)
    assert summary.counts["training_pairs"] + summary.counts["held_out_pairs"] == usable
    with pytest.raises(
        InputFault, match=r"hold 60 captioned images, of which 0 may be used .*raise captions\.fraction"
    ):
        run(config(captions={"fraction": 0.0}), {"download_shards": shards}, output, context())


def test_the_experiment_chooses_the_captions_and_its_own_key_more(tmp_path: Path) -> None:
    def section(*words: str) -> TrainClipConfig:
        found = load_config(CONFIGS / "tiny_clip.yaml", words).train_clip
        assert found is not None
        return found

    assert section("captions.fraction=0.1").captions == CaptionsConfig(fraction=0.1)
    assert section("captions.fraction=0.1", "train_clip.captions.fraction=1.0").captions.fraction == 1.0
    with pytest.raises(UsageError, match=r"train_clip: captions\.fraction is 0, and a CLIP learns from captions"):
        section("captions.fraction=0")
