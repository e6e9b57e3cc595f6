"""train_clip learns from human captions and pseudo-captions by their weights, and is evaluated on human ones."""

from pathlib import Path

import numpy as np
import pytest

from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.pseudo_captions import (
    CaptionedImage,
    Captioner,
    CaptionStatus,
    count_images,
    write_pseudo_captions,
)
from stages.formats.splits import SplitConfig
from stages.storage.artifact import Output
from stages.train_clip.data import CaptionedImages
from tests.unit.stages.encoded import encoded_square
from tests.unit.stages.train_clip.test_images import make_shards

NUM, NEVER_HUMAN, CHOICES = 40, 10, 400


def images(folder: Path, human: float, pseudo: float, *, captioned: int = NUM + NEVER_HUMAN) -> CaptionedImages:
    """Return images of which 40 have a human caption, half of these usable, and all two pseudo-captions."""
    shards = make_shards(folder / "s", [(encoded_square(row), "png") for row in range(NUM)], uncaptioned=NEVER_HUMAN)
    output = Output(str(folder / "p"), "caption_images", "p")
    Captioner(
        reference="m", model_type="git", digest="d", num_captions=2, max_new_tokens=9, num_beams=1, temperature=1.0,
        images="all",
    ).write(output)  # fmt: skip
    made = [
        CaptionedImage(f"{row:05d}", CaptionStatus.CAPTIONED, [f"one {row}", f"two {row}"]) for row in range(captioned)
    ]
    write_pseudo_captions(output, "00000", made)
    count_images(made, {}).finish(output, "00000")
    mix = {"human": human, "pseudo": pseudo}
    usable = CaptionsConfig.model_validate({"fraction": 0.5, "seed": 3, "mix": mix})
    return CaptionedImages({"download_shards": shards, "caption_images": output}, usable, image_size=16)


def usable_rows() -> list[int]:
    chosen = select_captioned([f"{row:05d}" for row in range(NUM)], CaptionsConfig(fraction=0.5, seed=3))
    return np.flatnonzero(chosen).tolist()


def chosen(found: CaptionedImages, row: int) -> dict[str, float]:
    """Return how often each caption of an image is chosen, over numbers spread evenly."""
    numbers = (np.arange(CHOICES) + 0.5) / CHOICES
    texts = found.captions(np.array([[0, row]] * CHOICES), numbers)
    return {text: texts.count(text) / CHOICES for text in set(texts)}


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, 4.0), (1.0, 0.0), (0.0, 1.0)])
def test_an_images_captions_are_chosen_by_the_weights(tmp_path: Path, weights: tuple[float, float]) -> None:
    found, human = images(tmp_path, *weights), weights[0] / sum(weights)
    assert (found.num_human, found.num_pseudo) == (len(usable_rows()), NUM + NEVER_HUMAN)
    both = usable_rows()[0]
    pseudo = (1 - human) / 2
    expected = {f"caption {both}": human, f"one {both}": pseudo, f"two {both}": pseudo}
    assert chosen(found, both) == pytest.approx({text: part for text, part in expected.items() if part})
    for row in (next(row for row in range(NUM) if row not in usable_rows()), NUM):
        assert chosen(found, row) == pytest.approx({f"one {row}": 0.5, f"two {row}": 0.5}), "no human caption is usable"


def test_held_out_images_have_human_captions_and_are_asked_for_these(tmp_path: Path) -> None:
    found = images(tmp_path, 0.0, 1.0)
    train, held_out, _ = found.split(SplitConfig(validation=0.3))
    assert set(held_out[:, 1].tolist()) <= set(usable_rows())
    assert found.captions(held_out) == [f"caption {row}" for row in held_out[:, 1].tolist()]
    assert not set(train[:, 1].tolist()) & set(held_out[:, 1].tolist())
    assert "caption" not in " ".join(found.all_captions(train)), "the vocabulary is of what training may choose"


def test_pseudo_captions_of_another_download_are_those_of_the_images_that_are_there(tmp_path: Path) -> None:
    found = images(tmp_path / "more", 1.0, 1.0, captioned=NUM + NEVER_HUMAN + 3)
    assert found.num_pseudo == sum(found.sizes) == NUM + NEVER_HUMAN
    with pytest.raises(InputFault, match=r"caption_images: found nothing of 6 of the 50 images of shard 00000"):
        images(tmp_path / "fewer", 1.0, 1.0, captioned=NUM + NEVER_HUMAN - 6)
