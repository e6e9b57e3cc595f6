"""Inception-v3's pool features, of the weights that torch-fidelity publishes or of torchvision's."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from cluster.owned_folders import scratch_folder
from stages.contract.errors import InputFault
from stages.formats.tensor_files import read_tensors

_FEATURES = 2048
_SIZE = 299
_OF_TORCHVISION = 1000  # classes; torch-fidelity's, which come of TensorFlow, have 1008


def load_inception(weights: Path, where: str) -> tuple[str, str, torch.nn.Module, int]:
    """Return name, resizing, network and width; InputFault: the file holds no Inception-v3."""
    try:
        state = read_tensors(weights)
        if len(state["fc.weight"]) == _OF_TORCHVISION:
            name, resize = "Inception-v3 (torchvision)", f"bilinear with antialias to {_SIZE} px"
            network: torch.nn.Module = _TorchvisionInception(state)
        else:
            name, resize = "Inception-v3 (FID)", f"bilinear as in TensorFlow 1 to {_SIZE} px"
            network = _fid_inception(state)
    except Exception as error:  # whatever is wrong with the file, torch has a kind of error of its own for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputFault(
            f"{where}.path: {weights} cannot be used ({reason}): expected the weights that torch-fidelity publishes, "
            "pt_inception-2015-12-05-6726825d.pth, or those of torchvision: give that file, or choose kind: clip"
        ) from error
    return name, resize, network.eval().requires_grad_(False), _FEATURES


def _fid_inception(state: dict[str, Tensor]) -> torch.nn.Module:
    """Load the network from a copy of the file's tensors, as torch-fidelity itself would run what the file pickles."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    with scratch_folder("inception") as folder:
        copy = folder / "inception.pth"
        torch.save(state, copy)
        metric = FrechetInceptionDistance(feature=_FEATURES, feature_extractor_weights_path=str(copy))
    network: torch.nn.Module = metric.inception
    return network


class _TorchvisionInception(torch.nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        has_aux = any(name.startswith("AuxLogits.") for name in state)
        self.network = inception_v3(weights=None, init_weights=False, aux_logits=has_aux, transform_input=False)
        self.network.load_state_dict(state)
        self.network.fc = torch.nn.Identity()

    def forward(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        scaled = F.interpolate(pixels.float(), size=(_SIZE, _SIZE), mode="bilinear", antialias=True)
        features: Tensor = self.network(scaled.clamp(0, 255) / 127.5 - 1)
        return features
