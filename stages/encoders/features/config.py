"""Under which network's features generated and true images are compared."""

from typing import Literal

from pydantic import Field

from stages.contract.config import ConfigModel, ExternalPath
from stages.encoders.config import ClipConfig


class ClipFeatures(ConfigModel):
    """The image embeddings of CLIP models: those of ``clip`` here, else of ``independent_clip``, else of ``clip``."""

    kind: Literal["clip"]
    clip: ClipConfig | None = Field(
        None, description="CLIP models of the features alone; none: independent_clip where there is one, else clip"
    )


class InceptionFeatures(ConfigModel):
    """The pool features of Inception-v3; with torch-fidelity's weights those that published FIDs are measured under."""

    kind: Literal["inception"]
    path: ExternalPath = Field(
        description="weights (.pth or .safetensors): those that torch-fidelity publishes, "
        "pt_inception-2015-12-05-6726825d.pth, or those of torchvision's inception_v3"
    )


class EfficientNetFeatures(ConfigModel):
    """The mean of EfficientNet-Lite0's last feature map; its weights come with a package: the default."""

    kind: Literal["efficientnet_lite0"]


class TransformerFeatures(ConfigModel):
    """The class token of a vision transformer, such as DINOv2, in a folder in the format of transformers."""

    kind: Literal["vision_transformer"]
    path: ExternalPath = Field(
        description="folder with config.json (model_type dinov2, dinov2_with_registers, dinov3_vit or vit) and weights "
        "as safetensors"
    )


class TimmFeatures(ConfigModel):
    """The pooled features of a model of timm, such as a ConvNeXt, in a folder as timm saves it for the hub."""

    kind: Literal["timm"]
    path: ExternalPath = Field(
        description="folder with config.json (architecture, pretrained_cfg) and model.safetensors"
    )


Features = ClipFeatures | InceptionFeatures | EfficientNetFeatures | TransformerFeatures | TimmFeatures
