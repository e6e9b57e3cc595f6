from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.contract.errors import InputFault
from stages.formats.splits import SplitConfig
from stages.generate.config import CaptionPrompts, GenerateConfig
from stages.generate.prompts import caption_prompts
from tests.unit.stages.encoded import encoded_square
from tests.unit.stages.train_clip.test_images import make_shards

CLIP = {"models": [{"kind": "trained"}]}


def test_prompts_are_the_captions_of_images_that_nobody_trains_on(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [(encoded_square(row), "png") for row in range(60)])
    split = SplitConfig(validation=0.2, test=0.2)
    test, validation = (
        caption_prompts(CaptionPrompts(kind="held_out", part=part), split, shards) for part in ("test", "validation")
    )
    assert test
    assert validation
    assert {one.sample for one in test}.isdisjoint({one.sample for one in validation})
    assert all(one.sample is not None and one.text == f"caption {int(one.sample[1])}" for one in test)
    few = caption_prompts(CaptionPrompts(kind="held_out", num=2), split, shards)
    assert few == test[:2]
    with pytest.raises(InputFault, match=r"none of the 60 captioned images is in the part test .*raise split\.test"):
        caption_prompts(CaptionPrompts(kind="held_out"), SplitConfig(test=1e-9), shards)


def test_the_section_reads_the_images_and_the_split_where_it_needs_them() -> None:
    section = GenerateConfig(clip=CLIP, prompts={"kind": "held_out", "part": "validation"})
    assert "download_shards" in section.inputs
    assert section.chosen_sets == ("prior", "text_embedding", "reconstruction")
    assert "split" in section.identity()
    assert "split" not in GenerateConfig(clip=CLIP, prompts={"kind": "list", "texts": ["x"]}).identity()
    with pytest.raises(ValidationError, match=r"prompts\.part is test, and split\.test is 0"):
        GenerateConfig(clip=CLIP, prompts={"kind": "held_out", "part": "test"})
