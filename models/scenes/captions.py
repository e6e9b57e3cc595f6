"""Captions: scenes to English, and the attributes that a caption names."""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from models.scenes.scene import Scene
from models.scenes.vocabulary import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

# Data, not prose: the quickstart's shards and the tokenizer of its CLIP are made of these words.
TEMPLATES: Final[tuple[str, ...]] = (
    "a {size} {color} {shape} at the {position} on a {background} background",
    "a {size} {color} {shape} at the {position}",
    "a picture of a {size} {color} {shape} at the {position} of a {background} background",
    "{color} {shape}, {size}, {position}, {background} background",
    "there is a {size} {color} {shape} at the {position} of the picture",
    "at the {position} on a {background} background, a {size} {shape} in {color}",
)

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "position": tuple(sorted(POSITIONS, key=len, reverse=True)),  # "top left" before "top"
    "background": tuple(name for tints in BACKGROUNDS.values() for name in tints),
}

_PARTIAL_FORMS: Final[dict[str, str]] = {
    "position": " at the {position}",
    "background": " on a {background} background",
}


def caption_scene(scene: Scene, rng: np.random.Generator, drop: float = 0.0) -> str:
    """Return a caption by a random template; with probability `drop` each attribute but the shape is left out."""
    if drop == 0.0:
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        return template.format(**scene.attributes)
    kept = {name: word for name, word in scene.attributes.items() if name == "shape" or rng.random() >= drop}
    return describe(kept)


def describe(attributes: Mapping[str, str]) -> str:
    """Return a caption of just these attributes, in the order of the first template."""
    words = [attributes.get("size"), attributes.get("color"), attributes.get("shape", "shape")]
    phrase = "a " + " ".join(word for word in words if word)
    for name, form in _PARTIAL_FORMS.items():
        if name in attributes:
            phrase += form.format(**{name: attributes[name]})
    return phrase


def read_caption(caption: str) -> dict[str, str]:
    """Return the attributes that a caption names."""
    found = {}
    for name, words in _WORDS.items():
        match = re.search(rf"\b({'|'.join(words)})\b", caption.lower())
        if match:
            found[name] = match.group(1)
    return found
