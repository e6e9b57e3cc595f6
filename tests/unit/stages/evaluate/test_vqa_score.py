"""The score of a model that is asked about images, beside that of unrelated prompts."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from stages.encoders.config import ClipConfig
from stages.encoders.image_to_text.config import QuestionAnswering
from stages.encoders.image_to_text.question_answering import ReplyScorer
from stages.evaluate.worker import other_prompts
from tests.tiny_captioners import save_tiny_captioner
from tests.unit.stages.evaluate.evaluated import SCENES, evaluate, generated, true_images


def test_a_model_for_questions_scores_images_beside_prompts_of_others(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": true_images}, clip, categories=lambda scene: scene.color, num=65)
    questions = {
        "path": save_tiny_captioner(tmp_path / "git", "git"),
        "question": "is {} in the image",
        "reply": "red",
    }
    found = evaluate(tmp_path / "e", clip, source, question_answering=questions)
    assert found.notes["vqa_score"] == "git git"
    score, unrelated = (found.measures[name] for name in ("vqa_score", "vqa_score/unrelated"))
    assert (score.n, unrelated.n) == (65, 64)  # the second unit has one image, and so no prompt of another's
    assert 0 < score.value < 1
    scores = pq.read_table(tmp_path / "e/scores/scores_prior-000000.parquet").to_pydict()
    assert not np.allclose(scores["vqa_score"], scores["vqa_score/unrelated"], rtol=1e-3)
    protocol = found.protocols[score.protocol]
    assert (protocol["question"], protocol["reply"], protocol["model"]) == ("is {} in the image", "red", "git git")
    by_color = [one for name, one in found.measures.items() if name.startswith("vqa_score/Category/")]
    assert sum(one.n for one in by_color) == 65


def test_an_unrelated_prompt_is_of_another_text() -> None:
    assert other_prompts(["A", "A", "B"]) == ["B", "B", "A"]
    assert other_prompts(["A", "A", "A", "B"]) == ["B", "B", "B", "A"]
    assert other_prompts(["A", "B", "B", "C", "A"]) == ["B", "C", "C", "A", "B"]
    assert other_prompts(["A", "A"]) == [None, None]
    assert other_prompts(["A"]) == [None]


def test_no_image_is_asked_its_own_prompt_as_an_unrelated_one(clip: ClipConfig, tmp_path: Path) -> None:
    """Units of three images, of which the first is of two prompts, and the second of one."""
    prompts = ["a red circle", "a red circle", "a blue ring", *["a green star"] * 3]
    source = generated(tmp_path / "g", {"prior": true_images}, clip, num=6, unit_images=3, prompts=prompts)
    questions = {"path": save_tiny_captioner(tmp_path / "git", "git"), "question": "is {} there", "reply": "red"}
    found = evaluate(tmp_path / "e", clip, source, question_answering=questions, batch_size=2)
    assert found.measures["vqa_score/unrelated"].n == 3
    first, second = (
        pq.read_table(tmp_path / f"e/scores/scores_prior-{unit:06d}.parquet").to_pydict() for unit in (0, 3)
    )
    assert np.isnan(second["vqa_score/unrelated"]).all()
    scorer = ReplyScorer(QuestionAnswering.model_validate(questions), device="cpu", where="test")
    expected = scorer(true_images(SCENES[:3]), ["a blue ring", "a blue ring", "a red circle"])
    np.testing.assert_allclose(first["vqa_score/unrelated"], expected.numpy(), rtol=1e-4)
