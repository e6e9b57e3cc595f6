"""Recipes are written into images and read back, exactly or not at all."""

import json

import numpy as np
import pytest

from stages.contract.errors import InputFault
from stages.inference.requests import (
    ArithmeticRecipe,
    EditRecipe,
    ImageEnd,
    InterpolationRecipe,
    Recipe,
    SceneRecipe,
    TextEnd,
    TextRecipe,
    VariationRecipe,
    fields_of,
    pack_embedding,
    pack_pixels,
    recipe_from,
    unpack_embedding,
    unpack_pixels,
)

EMBEDDING = np.random.default_rng(0).standard_normal(16).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
IMAGE = ImageEnd(name="cat.png", embedding=pack_embedding(EMBEDDING))


def test_embeddings_and_pixels_come_back_to_the_last_bit() -> None:
    assert np.array_equal(unpack_embedding(pack_embedding(EMBEDDING)), EMBEDDING)
    assert np.array_equal(unpack_pixels(pack_pixels(PIXELS)), PIXELS)


@pytest.mark.parametrize(
    "recipe",
    [
        TextRecipe(seed=1, prompt="a star"),
        VariationRecipe(seed=2, image=IMAGE),
        InterpolationRecipe(seed=3, start=IMAGE, end=TextEnd(name="a star"), fraction=1 / 3),
        EditRecipe(seed=4, prompt="a star", name="cat.png", pixels=pack_pixels(PIXELS), strength=0.1),
        ArithmeticRecipe(seed=5, prompt="a star", instead_of="a ring", image=IMAGE, strength=-0.7),
    ],
    ids=lambda recipe: recipe.mode,
)
def test_a_recipe_is_read_as_it_was_written(recipe: Recipe) -> None:
    assert recipe_from({"recipe": json.dumps(fields_of(recipe))}, "p.png") == recipe


def test_images_of_the_stage_and_of_a_served_model_have_recipes_too() -> None:
    told = {"prompt": "a star", "seed": "7"}
    assert recipe_from(told, "p.png") == TextRecipe(seed=7, prompt="a star")
    assert recipe_from(told | {"set": "text_embedding"}, "p.png") == TextRecipe(seed=7, prompt="a star", prior=False)
    scene = {"set": "reconstruction", "scene": '{"shape": "star"}'}
    assert recipe_from(told | scene, "p.png") == SceneRecipe(seed=7, prompt="a star", scene={"shape": "star"})


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"prompt": "a star"},
        {"prompt": "a star", "seed": "many"},
        {"recipe": "{"},
        {"recipe": '{"mode": "other"}'},
        {"recipe": '{"mode": "text", "prompt": "a", "seed": -1}'},
        {"recipe": json.dumps(fields_of(VariationRecipe(seed=2, image=IMAGE))).replace(IMAGE.embedding[:4], "!!!!")},
        {"recipe": '{"mode": "edit", "prompt": "a", "seed": 1, "name": "b", "strength": 0.5, "pixels": "aGk="}'},
    ],
)
def test_fields_that_are_none_are_reported(about: dict[str, str]) -> None:
    with pytest.raises(InputFault, match=r"p\.png: its text fields say not how it was made"):
        recipe_from(about, "p.png")
