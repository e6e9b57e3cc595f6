"""A small world of captioned images that are rendered on demand, and a checker of such images without learned parts."""

from models.scenes.captions import TEMPLATES, caption_scene, describe, read_caption
from models.scenes.checker import SceneChecker, SceneReading
from models.scenes.render import render_scenes
from models.scenes.scene import SPLITS, Scene, Split, make_scenes, split_combinations
from models.scenes.vocabulary import (
    BACKGROUNDS,
    COLORS,
    DOMAINS,
    NUM_COMBINATIONS,
    POSITIONS,
    SHAPES,
    SIZES,
)

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "DOMAINS",
    "NUM_COMBINATIONS",
    "POSITIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TEMPLATES",
    "Scene",
    "SceneChecker",
    "SceneReading",
    "Split",
    "caption_scene",
    "describe",
    "make_scenes",
    "read_caption",
    "render_scenes",
    "split_combinations",
]
