"""Trained models as folders of config.json and model.safetensors."""

from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.artifacts import Artifact, Output

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(output: Output, folder: str, model: nn.Module | Mapping[str, Tensor], config: dict[str, Any]) -> None:
    """Write a model's weights, then its configuration (JSON-ready), under the folder."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    with output.writing(f"{folder}/{WEIGHTS}") as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)
    output.write_json(f"{folder}/{CONFIG}", config)


def load_model_config(artifact: Artifact, folder: str) -> dict[str, Any]:
    """Read the configuration that was saved beside the weights."""
    config: dict[str, Any] = artifact.read_json(f"{folder}/{CONFIG}")
    return config


def load_model_state(artifact: Artifact, folder: str) -> dict[str, Tensor]:
    """Read the weights, to the CPU."""
    state: dict[str, Tensor] = load_file(artifact.local(f"{folder}/{WEIGHTS}"))
    return state
