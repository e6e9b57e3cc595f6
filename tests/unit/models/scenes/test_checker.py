"""The checker: right on true images, at chance on noise, and not fooled by a wrong caption."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.scenes.captions import read_caption
from models.scenes.checker import SceneChecker
from models.scenes.render import render_scenes
from models.scenes.scene import make_scenes
from models.scenes.vocabulary import COLORS, DOMAINS, SHAPES


@pytest.fixture(scope="module")
def checker():
    return SceneChecker()


def jpeg_round_trip(images):
    decoded = []
    for image in images.numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=85)
        decoded.append(np.array(Image.open(buffer)))
    return torch.from_numpy(np.stack(decoded))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("damage", [torch.clone, jpeg_round_trip])
def test_true_images_are_read_right(checker, domain, damage):
    scenes = make_scenes(240, seed=7, domain=domain, split="clip")
    right = checker.matches(damage(render_scenes(scenes)), scenes)
    for attribute, hits in right.items():
        assert hits.float().mean() >= 0.99, attribute


def test_other_resolutions_are_read_too():
    scenes = make_scenes(48, seed=8)
    right = SceneChecker(128).matches(render_scenes(scenes, 128), scenes)
    assert min(hits.float().mean() for hits in right.values()) >= 0.99


def test_noise_is_read_at_chance_and_with_a_low_fit(checker):
    scenes = make_scenes(300, seed=9)
    noise = torch.randint(0, 256, (300, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    right = checker.matches(noise, scenes)
    assert right["shape"].float().mean() < 2 / len(SHAPES)
    assert right["color"].float().mean() < 2 / len(COLORS)
    assert (right["shape"] & right["color"]).float().mean() < 2 / (len(SHAPES) * len(COLORS))
    assert checker.check(noise).fit.max() < 0.3
    assert checker.check(render_scenes(scenes)).fit.min() > 0.85


def test_a_wrong_caption_is_evaluated_wrong(checker):
    scenes = make_scenes(96, seed=10)
    images = render_scenes(scenes)
    for attribute, other in {"shape": SHAPES, "color": tuple(COLORS)}.items():
        next_word = dict(zip(other, other[1:] + other[:1], strict=True))
        changes: list[dict[str, Any]] = [{attribute: next_word[getattr(scene, attribute)]} for scene in scenes]
        wrong = [replace(scene, **change) for scene, change in zip(scenes, changes, strict=True)]
        assert not checker.matches(images, wrong)[attribute].any()


def test_captions_can_be_evaluated_by_their_words(checker):
    (scene,) = make_scenes(1, seed=11)
    reading = checker.check(render_scenes([scene]))
    assert all(reading.words(name) == [word] for name, word in read_caption("a " + scene.color).items())
    assert reading.words("shape") == [scene.shape]


def test_blank_images_are_read_without_failing(checker):
    reading = checker.check(torch.full((2, 64, 64, 3), 128, dtype=torch.uint8))
    assert reading.fit.tolist() == [0.0, 0.0]


def test_images_of_another_size_are_refused(checker):
    with pytest.raises(ValueError, match=r"\(32, 32, 3\): expected \(64, 64, 3\)"):
        checker.check(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
