"""The probability of an reply is the one by which the model itself would say it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import AutoImageProcessor, AutoTokenizer, BlipForQuestionAnswering, GitForCausalLM

from stages.contract.errors import InputFault
from stages.encoders.image_to_text.config import QuestionAnswering
from stages.encoders.image_to_text.question_answering import ReplyScorer
from tests.tiny_captioners import change_config, save_tiny_captioner

WHERE = "evaluate.question_answering"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
TEXTS = ["a large red circle on the left", "a star"]
QUESTION = "is {} in the image"


def scorer(folder: Path, **changes: Any) -> ReplyScorer:
    config = {"path": folder, "question": QUESTION, "reply": "red"} | changes
    return ReplyScorer(QuestionAnswering.model_validate(config), device="cpu", where=WHERE)


def said_by_itself(folder: Path, kind: str, image: np.ndarray, text: str, tokens: list[int]) -> float:
    """Let the library generate, one token at a time, and read off how likely each of these was."""
    tokenizer, processor = (
        AutoTokenizer.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder, backend="pil"),
    )
    pixels = processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
    question = QUESTION.replace("{}", text)
    if kind == "blip":
        model: Any = BlipForQuestionAnswering.from_pretrained(folder).eval()
        given = dict(tokenizer(question, return_tensors="pt"), pixel_values=pixels)
        given = {name: given[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    else:
        model = GitForCausalLM.from_pretrained(folder).eval()
        ids = [tokenizer.cls_token_id, *tokenizer(question, add_special_tokens=False)["input_ids"]]
        given = {"input_ids": torch.tensor([ids]), "pixel_values": pixels}
    found = 1.0
    forced = list(tokens)

    def force(_: Any, scores: torch.Tensor) -> torch.Tensor:
        nonlocal found
        found *= float(scores.softmax(-1)[0, forced[0]])
        only = torch.full_like(scores, -math.inf)
        only[0, forced.pop(0)] = 0.0
        return only

    model.generate(**given, max_new_tokens=len(tokens), logits_processor=[force], do_sample=False)
    return found


@pytest.mark.parametrize("kind", ["blip", "git"])
@pytest.mark.parametrize("reply", ["red", "the small star"])
def test_the_score_is_the_probability_of_the_reply(tmp_path: Path, kind: str, reply: str) -> None:
    folder = save_tiny_captioner(tmp_path, {"blip": "blip-replies"}.get(kind, kind))
    tokens = AutoTokenizer.from_pretrained(folder)(reply, add_special_tokens=False)["input_ids"]
    expected = [said_by_itself(folder, kind, *pair, tokens) for pair in zip(IMAGES, TEXTS, strict=True)]
    found = scorer(folder, reply=reply)(IMAGES, TEXTS)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert len({*found.tolist()}) == 2
    assert scorer(folder, reply=reply)(IMAGES[1:], TEXTS[1:]).tolist() == pytest.approx(expected[1:], rel=1e-4)


@pytest.mark.parametrize("kind", ["blip-replies", "git"])
def test_a_long_prompt_is_cut_to_what_the_model_reads(tmp_path: Path, kind: str) -> None:
    found = scorer(save_tiny_captioner(tmp_path, kind))(IMAGES, ["star " * 500, "ring"])
    assert torch.isfinite(found).all()


def test_a_model_that_cannot_reply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"question_answering\.path: .* lacks \d+ of its weights"):
        scorer(save_tiny_captioner(tmp_path / "captions", "blip"))
    with pytest.raises(InputFault, match="model_type is 'vision-encoder-decoder': allowed is one of blip, git"):
        scorer(save_tiny_captioner(tmp_path / "other", "vision-encoder-decoder"))
    with pytest.raises(InputFault, match="there is no folder"):
        scorer(tmp_path / "nothing")
    hostile = save_tiny_captioner(tmp_path / "hostile", "git")
    change_config(hostile, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(InputFault, match="auto_map names Python code to run"):
        scorer(hostile)


@pytest.mark.parametrize("question", ["is it so", "{} and {}"])
def test_a_question_asks_about_the_prompt_once(tmp_path: Path, question: str) -> None:
    with pytest.raises(ValidationError, match="expected one, for the prompt"):
        QuestionAnswering.model_validate({"path": tmp_path, "question": question})
