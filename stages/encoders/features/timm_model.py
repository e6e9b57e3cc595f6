"""The pooled features of a model of timm, in a folder as timm saves it for the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import shown
from stages.encoders.features.preparation import PreparedNetwork
from stages.encoders.model_files import describe_load_error, require_weights
from stages.encoders.vision_folders import TIMM_WEIGHTS, channels, check_timm_folder, image_side
from stages.formats.tensor_files import read_tensors


def load_timm(folder: Path, where: str) -> tuple[str, str, PreparedNetwork, int]:
    """Return name, resizing, network and width; nothing of the folder is run, nothing is fetched."""
    content = check_timm_folder(folder, where)
    prepared = content.get("pretrained_cfg") or {}
    size, (mean, std) = image_side(prepared, folder, where), channels(prepared, folder, where)
    network = _load(folder, content, where)
    module = _Pooled(network, size, mean, std).eval().requires_grad_(False)
    try:
        width = int(module(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputFault(
            f"{where}: {folder} takes no images of {size} pixels ({describe_load_error(error)}): expected the size of "
            "its training as pretrained_cfg.input_size"
        ) from error
    return f"timm {content['architecture']}", f"bicubic with antialias to {size} px", module, width


def _load(folder: Path, content: Mapping[str, Any], where: str) -> torch.nn.Module:
    """Return the network without its classifier."""
    import timm

    name, settings = content["architecture"], content.get("model_args") or {}
    if name not in (known := timm.list_models()):
        raise InputFault(
            f"{where}: {folder}: timm has no architecture {shown(name)!r}{nearest(name, known)}: allowed are its "
            f"{len(known)} models"
        )
    try:
        with torch.device("meta"):  # before so much memory is taken for it
            planned = timm.create_model(name, pretrained=False, num_classes=0, **settings)
        require_weights(folder, sum(one.numel() for one in planned.parameters()), folder / "config.json", where)
        network: torch.nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **settings)
        missing, unexpected = network.load_state_dict(read_tensors(folder / TIMM_WEIGHTS), strict=False)
    except InputFault:
        raise
    except Exception as error:  # the library raises errors of many types
        raise InputFault(
            f"{where}: timm cannot load {folder} ({describe_load_error(error)}): expected the folder of one of its "
            "models, config.json and model.safetensors"
        ) from error
    if lacking := [*missing, *(one for one in unexpected if not one.startswith(_classifier(network)))]:
        what = "lacks weights of" if missing else "has weights that are not of"
        raise InputFault(
            f"{where}: {folder} {what} {name} ({shown(lacking[0])} and {len(lacking) - 1} more): expected those of the "
            "architecture that config.json names"
        )
    return network


def _classifier(network: torch.nn.Module) -> tuple[str, ...]:
    """Return how the names of the classifier's weights begin, which features need not."""
    found = getattr(network, "default_cfg", {}).get("classifier") or ()
    return tuple(f"{one}." for one in ([found] if isinstance(found, str) else found))


class _Pooled(PreparedNetwork):
    def forward(self, pixels: Real[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch width"]:
        features: Tensor = self.network(self.prepared(pixels))
        return features
