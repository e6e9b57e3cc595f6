"""Features of images by networks that conditioned nothing."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.encoders.features.config import EfficientNetFeatures as EfficientNet
from stages.encoders.features.networks import load_network
from stages.formats.clip_folders import local_clip

_BATCH = 32
Images = UInt8[np.ndarray, "batch size size 3"]
Features = Callable[[Images], Float[Tensor, "batch dim"]]


class EfficientNetFeatures:
    """EfficientNet-Lite0, as ``evaluate.features`` has it."""

    def __init__(self) -> None:
        self._network = load_network(EfficientNet(kind="efficientnet_lite0"), "cpu", "the benchmark's features")

    def __call__(self, images: Images) -> Float[Tensor, "batch dim"]:
        """Return the features of all images."""
        return torch.from_numpy(self._network(images, _BATCH))


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
