"""Requests are written into images and read back, exactly or not at all."""

import json

import numpy as np
import pytest

from stages.contract.errors import InputFault
from stages.formats.generated_images import pack_embedding, pack_pixels, unpack_embedding, unpack_pixels
from stages.inference.requests import (
    ArithmeticRequest,
    BatchRow,
    EditRequest,
    ImageEnd,
    ImageRequest,
    InterpolationRequest,
    SceneRequest,
    TextEnd,
    TextRequest,
    VariationRequest,
    batch_row_from,
    fields_of,
    request_from,
)

EMBEDDING = np.random.default_rng(0).standard_normal(16).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
ROW = BatchRow(4, 2)
IMAGE = ImageEnd(name="cat.png", embedding=pack_embedding(EMBEDDING))


def test_embeddings_and_pixels_come_back_to_the_last_bit() -> None:
    assert np.array_equal(unpack_embedding(pack_embedding(EMBEDDING)), EMBEDDING)
    assert np.array_equal(unpack_pixels(pack_pixels(PIXELS)), PIXELS)


@pytest.mark.parametrize(
    "asked",
    [
        TextRequest(seed=1, prompt="a star"),
        VariationRequest(seed=2, image=IMAGE),
        InterpolationRequest(seed=3, start=IMAGE, end=TextEnd(name="a star"), fraction=1 / 3),
        EditRequest(seed=4, prompt="a star", name="cat.png", pixels=pack_pixels(PIXELS), strength=0.1),
        ArithmeticRequest(seed=5, prompt="a star", instead_of="a ring", image=IMAGE, strength=-0.7),
    ],
    ids=lambda one: one.mode,
)
def test_a_request_is_read_as_it_was_written(asked: ImageRequest) -> None:
    assert request_from({"recipe": json.dumps(fields_of(asked, ROW)["recipe"])}, "p.png") == asked


def test_a_batch_row_is_read_as_it_was_written() -> None:
    written = fields_of(TextRequest(seed=1, prompt="a star"), ROW)
    assert batch_row_from({"batch": json.dumps(written["batch"])}) == ROW
    assert batch_row_from({}) == BatchRow(1, 0)
    for wrong in ("[2, 2]", "[0, 0]", "[100000, 0]", '["a", 0]', "[1]", "{"):
        with pytest.raises(ValueError, match=r"batch|unpack|JSON|Expecting"):
            batch_row_from({"batch": wrong})


def test_images_of_the_stage_and_of_a_served_model_have_requests_too() -> None:
    fields = {"prompt": "a star", "seed": "7"}
    assert request_from(fields, "p.png") == TextRequest(seed=7, prompt="a star")
    assert request_from(fields | {"set": "text_embedding"}, "p.png") == TextRequest(
        seed=7, prompt="a star", prior=False
    )
    scene = {"set": "reconstruction", "scene": '{"shape": "star"}'}
    assert request_from(fields | scene, "p.png") == SceneRequest(seed=7, prompt="a star", scene={"shape": "star"})


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"prompt": "a star"},
        {"prompt": "a star", "seed": "many"},
        {"recipe": "{"},
        {"recipe": '{"mode": "other"}'},
        {"recipe": '{"mode": "text", "prompt": "a", "seed": -1}'},
        {"recipe": json.dumps(VariationRequest(seed=2, image=IMAGE).model_dump()).replace(IMAGE.embedding[:4], "!!!!")},
        {"recipe": '{"mode": "edit", "prompt": "a", "seed": 1, "name": "b", "strength": 0.5, "pixels": "aGk="}'},
    ],
)
def test_fields_that_are_none_are_reported(about: dict[str, str]) -> None:
    with pytest.raises(InputFault, match=r"p\.png: has no text fields that say how it was made"):
        request_from(about, "p.png")


def test_an_image_of_a_photographs_embedding_is_refused_as_such() -> None:
    fields = {"prompt": "a dog", "seed": "3", "set": "reconstruction", "scene": "null"}
    with pytest.raises(
        InputFault, match=r"^p\.png: was made from the embedding of a photograph .* --image PHOTOGRAPH$"
    ):
        request_from(fields, "p.png")
    assert request_from(fields | {"set": "text_embedding"}, "p.png") == TextRequest(seed=3, prompt="a dog", prior=False)
    for scene in ({"scene": "3"}, {"scene": "{"}):
        with pytest.raises(InputFault, match=r"has no text fields that say how it was made"):
            request_from(fields | scene, "p.png")
