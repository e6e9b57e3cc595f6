"""Checkpoints: whole tensors as safetensors, sealed by a unit record that is written last.

A checkpoint depends neither on the number of workers nor on the ZeRO stage that it was written with.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.storage.artifact import Output

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "checkpoint_"
FOLDER = "checkpoints"


def write_checkpoint(output: Output, step: int, state: "Mapping[str, Mapping[str, Tensor]]", keep: int) -> None:
    """Write the state after ``step`` steps, then forget all but the newest ``keep`` checkpoints."""
    from safetensors.torch import save_file

    for part, tensors in state.items():
        with output.writing(f"{_folder(step)}/{part}.safetensors") as path:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    output.finish_unit(_unit(step), {"step": step, "parts": sorted(state)})
    for old in checkpoint_steps(output)[:-keep]:
        _forget(output, old)


def checkpoint_steps(output: Output) -> list[int]:
    """Return the steps after which a whole checkpoint stands, ascending."""
    names = output.glob(f"units/{PREFIX}*.json")
    return sorted(int(name.removesuffix(".json").rpartition(PREFIX)[2]) for name in names)


def read_checkpoint(output: Output, step: int) -> "dict[str, dict[str, Tensor]]":
    """Read the state after ``step`` steps, to the CPU."""
    from safetensors.torch import load_file

    parts = output.read_json(f"units/{_unit(step)}.json")["parts"]
    return {part: load_file(output.local(f"{_folder(step)}/{part}.safetensors")) for part in parts}


def remove_checkpoints(output: Output) -> None:
    """Delete all checkpoints, when the trained model is in place."""
    for step in checkpoint_steps(output):
        _forget(output, step)
    output.remove(FOLDER)


def _forget(output: Output, step: int) -> None:
    output.remove(f"units/{_unit(step)}.json")  # first, so that no record ever stands for missing files
    output.remove(_folder(step))


def _unit(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def _folder(step: int) -> str:
    return f"{FOLDER}/{step:08d}"
