"""Named tensors in files of users: safetensors, or what torch's loader of tensors alone reads. Nothing is unpickled."""

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a .pth file that holds nothing else; or raise ValueError."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose words say how to run the code
        raise ValueError("it holds more than named tensors, which could run code") from error
    except Exception as error:  # the libraries raise errors of many types for a damaged file
        kind = "it is not a safetensors file" if path.suffix == ".safetensors" else "torch cannot read it"
        raise ValueError(f"{kind}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds more than named tensors")
    return state
