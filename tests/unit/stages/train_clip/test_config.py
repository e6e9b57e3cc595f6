"""What the architecture of a CLIP model to train may say."""

from typing import Any

import pytest
from pydantic import ValidationError

from stages.train_clip.config import ClipArchitecture, TrainClipConfig
from stages.training.config import TrainingConfig

VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 8}
TEXT = {"layers": 2, "width": 64, "heads": 2, "context_length": 24}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_cfg": VISION | {"widht": 64}}, r"vision_cfg\.widht: unknown key; did you mean width\?"),
        ({"text_cfg": TEXT | {"sorcery": 1}}, r"text_cfg\.sorcery: unknown key; allowed are .*layers"),
        ({"text_cfg": TEXT | {"layers": "two"}}, r"text_cfg\.layers: "),
        ({"text_cfg": TEXT | {"hf_model_name": "of/somebody"}}, r"text_cfg\.hf_model_name: unknown key"),
    ],
)
def test_a_tower_holds_nothing_that_open_clip_does_not_know(changes: dict[str, Any], words: str) -> None:
    towers: dict[str, Any] = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
    assert ClipArchitecture.model_validate(towers).vision_cfg == VISION
    with pytest.raises(ValidationError, match=words):
        ClipArchitecture.model_validate(towers | changes)


def test_the_defaults_are_whole_and_a_section_that_sets_steps_and_batch_has_all() -> None:
    defaults = TrainClipConfig()
    assert defaults.training.best is not None
    assert defaults.training.can_go_on
    few = TrainClipConfig.model_validate({"training": {"num_steps": 500}})
    assert few.training == defaults.training.model_copy(update={"num_steps": 500})
    own = TrainClipConfig.model_validate({"training": {"num_steps": 500, "batch_size": 8}})
    assert own.training == TrainingConfig(num_steps=500, batch_size=8)
    assert "flip" not in defaults.identity()["augmentation"]
    flipped = TrainClipConfig.model_validate({"augmentation": {"flip": 0.5}})
    assert flipped.identity()["augmentation"]["flip"] == 0.5


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (
            {"gradient_accumulation": 2},
            r"training\.gradient_accumulation is 2 with train_clip, .*: allowed is 1",
        ),
        ({"batch_size": 1}, r"training\.batch_size is 1: allowed is 2 or more, .*: raise it"),
    ],
)
def test_every_pair_has_the_whole_batch_to_be_contrasted_with(training: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainClipConfig.model_validate({"training": training})
