"""Small networks on embeddings that users supply: the layers of a safetensors file, one after the other."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from stages.contract.errors import InputFault
from stages.contract.parsing import parsing, shown
from stages.filter_samples.config import HeadFilter

_NAME = re.compile(r".*?(?<!\d)\d{1,9}(\D*)\.(weight|bias)", re.DOTALL)  # the last number is the layer's
Layer = tuple[np.ndarray, np.ndarray]


def load_head(head: HeadFilter, embed_dim: int) -> list[Layer]:
    """Return weight [out, in] and bias [out] of each layer, in the order of the numbers in their names."""
    where = f"filter_samples.heads ({head.name})"
    tensors = _read(head.path, where)
    numbers = sorted({_number(name) for name in tensors})
    layers: list[Layer] = []
    width = embed_dim
    for number in numbers:
        layers.append(_layer(tensors, number, width, f"{where}: layer {number} of {head.path}"))
        width = len(layers[-1][1])
    if width != 1 or not layers:
        raise InputFault(f"{where}: {head.path} ends in {width} numbers: expected 1: give a head with one output")
    return layers


def head_outputs(
    head: HeadFilter, layers: list[Layer], rows: Float[np.ndarray, "rows embed"]
) -> Float[np.ndarray, " rows"]:
    """Return the head's output for each embedding."""
    values = rows.astype(np.float64)
    if head.normalise:
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    for index, (weight, bias) in enumerate(layers):
        if index and head.activation == "relu":
            values = np.maximum(values, 0.0)
        values = values @ weight.T + bias
    found: np.ndarray = values[:, 0]
    return 1.0 / (1.0 + np.exp(-np.clip(found, -500, 500))) if head.sigmoid else found


def _layer(tensors: dict[str, np.ndarray], number: int, width: int, where: str) -> Layer:
    """Return weight and bias of the layer of a number, which takes ``width`` values."""
    weight, bias = (next((t for n, t in tensors.items() if _is(n, number, kind)), None) for kind in ("weight", "bias"))
    fits = weight is not None and weight.ndim == 2 and weight.shape[1] == width
    if weight is None or bias is None or not fits or bias.shape != weight.shape[:1]:
        found = {name: list(tensor.shape) for name, tensor in tensors.items() if _number(name) == number}
        raise InputFault(
            f"{where} is {found}: expected weight [out, {width}] and bias [out]: "
            "give a head for the embeddings of this CLIP, as a safetensors file of its layers"
        )
    return weight.astype(np.float64), bias.astype(np.float64)


def _read(path: Path, where: str) -> dict[str, np.ndarray]:

    def unreadable(reason: str) -> InputFault:
        return InputFault(f"{where}: {path} cannot be read ({reason}): expected a safetensors file: give its path")

    with parsing(unreadable):
        tensors: dict[str, np.ndarray] = load_file(path)
    odd = [name for name in tensors if not _NAME.fullmatch(name)]
    if odd:
        raise InputFault(
            f"{where}: {path} holds {', '.join(map(shown, odd[:5]))}: expected names such as 0.weight and 0.bias, with "
            "the number of their layer: rename them"
        )
    return tensors


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])


def _is(name: str, number: int, kind: str) -> bool:
    return name.endswith(f".{kind}") and _number(name) == number
