"""What of an exported model other programs load: diffusers its networks, and LoRA loaders the low-rank additions.

A decoder made of a Stable Diffusion checkpoint is stored as a whole pipeline of diffusers already
(decoder/pipeline), which is brought along. Of the other kinds, every network that is diffusers' own is written in its
format under diffusers/<name>. Low-rank additions come in two forms: as diffusers writes them (decoder/lora), and with
the keys of the kohya scripts, which ComfyUI and others load.
"""

import shutil
from pathlib import Path
from typing import Final

from torch import nn

from stages.formats.model_folders import DECODER
from stages.storage.artifact import Artifact

DIFFUSERS: Final = "diffusers"
PIPELINE: Final = "pipeline"
LORA: Final = "lora"
KOHYA: Final = "lora/kohya.safetensors"


def write_diffusers_parts(folder: Path, decoder: Artifact, network: nn.Module) -> list[str]:
    """Write what others load beside a bundle; return the names of folders and files, below the bundle's."""
    written = _bring_along(folder, decoder)
    if f"{DECODER}/{PIPELINE}" not in written:
        written += _write_networks(folder, network)
    lora = folder / DECODER / LORA
    if lora.is_dir():
        _write_kohya(lora, folder / KOHYA)
        written.append(KOHYA)
    return written


def _bring_along(folder: Path, decoder: Artifact) -> list[str]:
    """Copy a pipeline of diffusers and low-rank additions, where the decoder has them."""
    found = set()
    for name in decoder.sizes():
        parts = Path(name).parts
        if parts[:1] == (DECODER,) and len(parts) > 2 and parts[1] in (PIPELINE, LORA):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(decoder.local(name), folder / name)
            found.add(f"{DECODER}/{parts[1]}")
    return sorted(found)


def _write_networks(folder: Path, network: nn.Module) -> list[str]:
    from diffusers import ModelMixin

    found: list[str] = []
    for name, module in network.named_modules():
        is_part = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, ModelMixin) and not is_part:
            module.save_pretrained(folder / DIFFUSERS / name, safe_serialization=True)
            found.append(name)
    return [f"{DIFFUSERS}/{name}" for name in found]


def _write_kohya(lora: Path, target: Path) -> None:
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import load_file, save_file

    additions = {
        name: tensor for file in sorted(lora.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in convert_state_dict_to_kohya(additions).items()}, target)
