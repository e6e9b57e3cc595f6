"""Captions: what they say is what the scene shows."""

import numpy as np

from models.scenes.captions import TEMPLATES, caption_scene, describe, read_caption
from models.scenes.scene import make_scenes


def test_every_template_names_all_attributes_but_perhaps_the_background():
    rng = np.random.default_rng(0)
    for scene in make_scenes(200, seed=1, domain="night"):
        found = read_caption(caption_scene(scene, rng))
        assert {"shape", "color", "size", "position"} <= found.keys()
        assert found.items() <= scene.attributes.items()


def test_captions_come_from_several_templates_and_repeat_with_the_seed():
    (scene,) = make_scenes(1)
    captions = [caption_scene(scene, np.random.default_rng(seed)) for seed in range(60)]
    assert len(set(captions)) == len(TEMPLATES)
    assert captions == [caption_scene(scene, np.random.default_rng(seed)) for seed in range(60)]


def test_dropped_attributes_are_left_out():
    rng = np.random.default_rng(0)
    (scene,) = make_scenes(1)
    counts = [len(read_caption(caption_scene(scene, rng, drop=0.5))) for _ in range(300)]
    assert 2.8 < np.mean(counts) < 3.2
    assert caption_scene(scene, rng, drop=1.0) == f"a {scene.shape}"


def test_partial_descriptions_read_as_english():
    words = {"color": "red", "position": "top left", "background": "mint"}
    caption = describe(words)
    assert caption == "a red shape at the top left on a mint background"
    assert read_caption(caption) == words
