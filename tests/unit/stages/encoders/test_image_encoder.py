"""Encoders of images in CLIP's place, in the formats of transformers and of timm."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from stages.contract.errors import InputFault
from stages.encoders.check import check_clip
from stages.encoders.config import ClipConfig, FolderClip, TimmImages, VisionTransformerImages, local_clips
from stages.encoders.image_encoder import VisionEncoder
from stages.encoders.space import Encoders, make_encoders
from stages.formats.images import square
from tests.factories import save_tiny_clip, save_tiny_dino

RNG = np.random.default_rng(0)
WIDE = Image.fromarray(RNG.integers(0, 256, (28, 60, 3), dtype=np.uint8))


def dino(folder: Path, seed: int = 0) -> VisionTransformerImages:
    return VisionTransformerImages(kind="vision_transformer", path=save_tiny_dino(folder, seed=seed))


def encoders(folder: Path) -> Encoders:
    clip = FolderClip(kind="folder", path=save_tiny_clip(folder / "clip"))
    return make_encoders(ClipConfig(models=(clip,), images=dino(folder / "dino")), device="cpu")


def test_an_image_is_its_middle_square(tmp_path: Path) -> None:
    encoder = VisionEncoder(dino(tmp_path), device="cpu")
    middle = Image.fromarray(np.asarray(WIDE)[:, 16:44])
    assert torch.equal(encoder.encode_images([WIDE]), encoder.encode_images([middle]))
    assert encoder.encode_images([]).shape == (0, 12)
    assert (encoder.block_dims, encoder.identity.image_size, encoder.identity.encodes) == ((12,), 28, "images")


def test_prepared_images_and_images_with_gradients_give_the_same(tmp_path: Path) -> None:
    encoder = VisionEncoder(dino(tmp_path), device="cpu")
    pixels = torch.from_numpy(np.stack([square(WIDE, 28)])).permute(0, 3, 1, 2)
    images = (pixels.float() / 127.5 - 1).requires_grad_()
    found = encoder.embed_images(images)
    assert torch.allclose(found, encoder.encode_images([WIDE]), atol=1e-5)
    found.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_a_model_of_timm_embeds_by_its_pooled_features(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", pretrained=False)
    save_file(network.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    prepared = {"input_size": [3, 160, 160], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    content = {"architecture": "test_vit", "num_classes": 1000, "num_features": 64, "pretrained_cfg": prepared}
    (tmp_path / "config.json").write_text(json.dumps(content))
    encoder = VisionEncoder(TimmImages(kind="timm", path=tmp_path), device="cpu")
    assert encoder.encode_images([WIDE]).shape == (1, 64)
    assert encoder.identity.image_size == 160


def test_texts_stay_clips_and_both_are_named(tmp_path: Path) -> None:
    both = encoders(tmp_path)
    assert not both.is_one_space
    assert [one.encodes for one in both.identities] == ["texts", "images"]
    assert (both.identities.embed_dim, both.identities.text_dim, both.clip.embed_dim) == (12, 16, 16)
    assert "encodes" not in both.clip.identities.to_json()[0]
    other = VisionEncoder(dino(tmp_path / "other", seed=1), device="cpu").identity
    assert other.digest != both.identities.of_images[0].digest


def test_a_folder_is_checked_before_anything_starts(tmp_path: Path) -> None:
    clip = FolderClip(kind="folder", path=save_tiny_clip(tmp_path / "clip"))
    config = ClipConfig(models=(clip,), images=dino(tmp_path / "dino"))
    check_clip(local_clips(config, {}))
    file = tmp_path / "dino" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(InputFault, match=r"clip\.images\.path: .*auto_map names Python code to run"):
        check_clip(config)
