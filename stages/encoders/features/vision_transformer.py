"""The class token of a vision transformer in the format of transformers, such as DINOv2 (arXiv 2304.07193)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.encoders.features.preparation import PreparedNetwork
from stages.encoders.model_files import describe_load_error, read_model_json, refuse
from stages.encoders.state_encoder import no_progress_bar
from stages.encoders.vision_folders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LARGEST_SIDE,
    PREPROCESSOR,
    check_vision_folder,
    require_channels,
)


def load_vision_transformer(folder: Path, where: str) -> tuple[str, str, PreparedNetwork, int]:
    """Return name, resizing, network and width; nothing of the folder is run, nothing is fetched."""
    content = check_vision_folder(folder, f"{where}.path")
    from transformers import AutoModel

    try:
        with no_progress_bar():
            network, report = AutoModel.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # the library raises errors of many types
        raise InputFault(
            f"{where}.path: transformers cannot load {folder} ({describe_load_error(error)}): save the model there "
            "anew by save_pretrained"
        ) from error
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise InputFault(
            f"{where}.path: {folder} lacks {len(missing)} of the model's weights ({shown(missing[0])}): expected all: "
            "save the model there anew by save_pretrained"
        )
    size, mean, std = _preparation(folder, content, f"{where}.path")
    name = f"{content['model_type']} {content.get('hidden_size', 768)} x {content.get('num_hidden_layers', 12)}"
    module = _ClassToken(network, size, mean, std).eval().requires_grad_(False)
    return name, f"bicubic with antialias to {size} px", module, int(network.config.hidden_size)


def _preparation(
    folder: Path, content: Mapping[str, Any], where: str
) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Return the side of the images, and mean and standard deviation of their channels."""
    file = folder / PREPROCESSOR
    said = read_model_json(file, where) if file.exists() else {}
    size = content.get("image_size", 224)
    if content["model_type"] != "vit" and isinstance(said.get("crop_size"), dict):  # its positions are interpolated
        size = said["crop_size"].get("height", size)
    patch = content.get("patch_size", 16)
    if isinstance(size, bool) or not isinstance(size, int) or not patch <= size <= LARGEST_SIDE or size % patch:
        raise refuse(where, file, f"images of {shown(size)} pixels", f"a multiple of {patch} up to {LARGEST_SIDE}")
    numbers = (said.get("image_mean", IMAGENET_MEAN), said.get("image_std", IMAGENET_STD))
    require_channels(numbers, file, where)
    return size, tuple(numbers[0]), tuple(numbers[1])


class _ClassToken(PreparedNetwork):
    def __init__(self, network: Any, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(network, size, mean, std)
        if hasattr(network, "pooler"):  # it is not used, and may have no trained weights
            network.pooler = None

    def forward(self, pixels: Real[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch width"]:
        token: Tensor = self.network(self.prepared(pixels)).last_hidden_state[:, 0]
        return token
