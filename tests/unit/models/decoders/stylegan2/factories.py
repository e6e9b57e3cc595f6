"""Small StyleGAN2 parts for tests."""

from typing import Any

import torch
from torch import Tensor

from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.augmentation import NUM_RANDOM_INPUTS
from models.decoders.stylegan2.discriminator import Discriminator
from models.decoders.stylegan2.model import StyleGan2Generator
from models.decoders.stylegan2.spec import AdversarialSettings, DiscriminatorSpec, StyleGan2Spec
from tests.specs import make_spec

EMBED, LATENT, SIDE = 6, 5, 16


def make_generator(**changes: Any) -> StyleGan2Generator:
    torch.manual_seed(0)
    fields = {"embed_dim": EMBED, "resolution": SIDE, "channels": (8, 6), "patch_size": 2, "latent_dim": LATENT,
              "style_dim": 7, "mapping_layers": 2, "condition_dim": 4, "mapping_rate": 0.01, "start": "constant",
              "layer_noise": True}  # fmt: skip
    generator = make_spec(StyleGan2Spec, **(fields | changes)).build()
    for name, parameter in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(parameter, 0.3)  # training begins at 0, where noise would not show
    return generator


def make_discriminator(**changes: Any) -> Discriminator:
    torch.manual_seed(1)
    fields = {"embed_dim": EMBED, "resolution": SIDE, "channels": (8, 6), "patch_size": 2, "feature_dim": 9}
    return make_spec(DiscriminatorSpec, **(fields | changes)).build()


def make_adversary(generator: StyleGan2Generator | None = None, **settings: Any) -> Adversary:
    chosen = AdversarialSettings(
        **({"r1_weight": 10.0, "clip_weight": 2.0, "feature_weight": 3.0, "r1_interval": 4} | settings)
    )
    return Adversary(generator or make_generator(), make_discriminator(), chosen, embed_images=embed_images)


def embed_images(images: Tensor) -> Tensor:
    """Stand for CLIP: a fixed linear map of the images."""
    weights = torch.randn(images[0].numel(), EMBED, generator=torch.Generator().manual_seed(5))
    return images.flatten(1) @ weights


def make_batch(generator: StyleGan2Generator, *, count: int = 4, step: int = 1) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(2)
    return {
        "images": torch.rand(count, 3, SIDE, SIDE, generator=source) * 2 - 1,
        "embeddings": torch.randn(count, EMBED, generator=source),
        "latent": torch.randn(count, LATENT, generator=source),
        "noise": torch.randn(count, generator.noise_size, generator=source),
        "pseudo_text": torch.randn(count, EMBED, generator=source),
        "augmentation": torch.rand(count, 2, NUM_RANDOM_INPUTS, generator=source),
        "path": torch.randn(count, 3, SIDE, SIDE, generator=source),
        "step": torch.full((count,), step),
    }
