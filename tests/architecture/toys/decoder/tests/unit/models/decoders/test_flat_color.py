"""The decoder to one color."""

import torch

from models.decoders.registry import read_spec
from models.decoders.sampling import DecoderSampling


def test_an_image_has_one_color() -> None:
    spec = read_spec({"kind": "flat_color", "embed_dim": 4, "resolution": 8})
    images = spec.build().sample(torch.ones(2, 4), [0, 1], DecoderSampling())
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
