"""Rendering: the same pixels every time, and different images of one combination."""

from dataclasses import replace

import torch

from models.scenes.render import render_scenes
from models.scenes.scene import Scene, make_scenes


def test_rendering_is_deterministic_and_independent_of_the_batch():
    scenes = make_scenes(20, seed=3, domain="night")
    images = render_scenes(scenes)
    assert images.shape == (20, 64, 64, 3)
    assert images.dtype == torch.uint8
    alone = torch.cat([render_scenes([scene]) for scene in scenes])
    assert torch.equal(images, alone)


def test_jitter_separates_images_of_one_combination():
    scene = Scene("star", "red", "large", "center", "white")
    images = render_scenes([scene, replace(scene, jitter_seed=1)])
    assert not torch.equal(images[0], images[1])


def test_resolution_changes_the_sampling_but_not_the_image():
    scenes = make_scenes(8, seed=4)
    coarse = render_scenes(scenes, 32).float()
    fine = render_scenes(scenes, 128).float()
    pooled = fine.reshape(8, 32, 4, 32, 4, 3).mean(dim=(2, 4))
    assert (pooled - coarse).abs().mean() < 2.0


def test_many_scenes_are_rendered_in_chunks_and_none_gives_none():
    assert render_scenes([], 16).shape == (0, 16, 16, 3)
    assert render_scenes(make_scenes(600), 16).shape == (600, 16, 16, 3)
