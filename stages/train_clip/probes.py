"""Evaluate a trained CLIP model: retrieval on held-out pairs, and zero-shot classification of scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from models.scenes.captions import describe
from models.scenes.render import render_scenes
from models.scenes.scene import Scene, make_scenes
from models.scenes.vocabulary import COLORS, DOMAINS, SHAPES
from stages.train_clip.config import SceneProbe

_FULL_TEMPLATE = "a {size} {color} {shape} at the {position} on a {background} background"
_CHUNK = 256


@dataclass(frozen=True)
class Encoders:
    """The two towers of the evaluated model; both return embeddings of length 1."""

    images: Callable[[UInt8[Tensor, "batch height width 3"]], Float[Tensor, "batch embed"]]
    texts: Callable[[Sequence[str]], Float[Tensor, "batch embed"]]
    image_size: int


Hits = dict[str, Bool[Tensor, " rows"]]
"""What is right of each pair or image, by the names of the fractions."""


def retrieval(
    z_image: Float[Tensor, "pairs embed"], z_text: Float[Tensor, "pairs embed"], captions: Sequence[str]
) -> Hits:
    """Return which pairs are first in both directions (R@1); any with the same caption counts as correct.

    Cosines are float32 under any autocast.
    """
    number = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    identity = torch.tensor([number[caption] for caption in captions])
    similarity = _cosines(z_image, z_text).cpu()
    return {
        "retrieval_text_of_image": identity[similarity.argmax(dim=1)] == identity,
        "retrieval_image_of_text": identity[similarity.argmax(dim=0)] == identity,
    }


def fractions(hits: Hits) -> dict[str, float]:
    """Return how many are right."""
    return {name: float(hit.float().mean()) for name, hit in hits.items()}


def probe_scenes(encoders: Encoders, probe: SceneProbe) -> Hits:
    """Classify shape, color and the whole caption of held-out scenes, by the nearest text embedding."""
    found: Hits = {}
    for domain in DOMAINS:
        scenes = make_scenes(probe.num_images, seed=probe.seed, domain=domain, split="heldout")
        chunks = torch.split(render_scenes(scenes, encoders.image_size), _CHUNK)
        z_image = torch.cat([encoders.images(chunk) for chunk in chunks])
        found |= {f"{domain}_{name}": value for name, value in _probe_domain(encoders, scenes, z_image).items()}
    return found


def _probe_domain(encoders: Encoders, scenes: Sequence[Scene], z_image: Float[Tensor, "batch embed"]) -> Hits:
    shapes = [[describe({"shape": shape})] for shape in SHAPES]
    colors = [[describe({"color": color, "shape": shape}) for shape in SHAPES] for color in COLORS]
    captions = [_FULL_TEMPLATE.format(**scene.attributes) for scene in scenes]
    return {
        "zero_shot_shape": _zero_shot(encoders, z_image, shapes, [SHAPES.index(scene.shape) for scene in scenes]),
        "zero_shot_color": _zero_shot(encoders, z_image, colors, [list(COLORS).index(scene.color) for scene in scenes]),
        "retrieval": retrieval(z_image, encoders.texts(captions), captions)["retrieval_text_of_image"],
    }


def _zero_shot(
    encoders: Encoders, z_image: Float[Tensor, "batch embed"], prompts: list[list[str]], labels: list[int]
) -> Bool[Tensor, " batch"]:
    """Classify by the nearest mean of the embeddings of each class's prompts."""
    classes = torch.stack([encoders.texts(prompt).float().mean(dim=0) for prompt in prompts])
    predictions = _cosines(z_image, F.normalize(classes, dim=-1)).argmax(dim=1).cpu()
    return predictions == torch.tensor(labels)


def _cosines(left: Float[Tensor, "left embed"], right: Float[Tensor, "right embed"]) -> Float[Tensor, "left right"]:
    """Return the cosines of embeddings of length 1; the loop validates under autocast, whose bf16 makes many equal."""
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T
