"""Read a Stable Diffusion checkpoint, and write one that diffusers' own pipelines load."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import ConfigMixin
from peft.utils import get_peft_model_state_dict
from torch import nn

from cluster.owned_folders import scratch_folder
from stages.contract.errors import InputFault
from stages.encoders.model_files import describe_load_error
from stages.storage.artifact import Output


def load_unet(source: str) -> Any:
    """Load the U-Net in single precision."""
    return _load(source, "unet", UNet2DConditionModel.from_pretrained)


def load_vae(source: str) -> Any:
    """Load the autoencoder in single precision, frozen."""
    return _load(source, "vae", AutoencoderKL.from_pretrained).eval().requires_grad_(False)


def read_configs(source: str) -> dict[str, dict[str, Any]]:
    """Return the configurations of unet, vae and scheduler, without what says where and by whom they were saved."""
    parts: dict[str, type[ConfigMixin]] = {
        "unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler,
    }  # fmt: skip
    return {part: _read_config(source, part, maker) for part, maker in parts.items()}


def save_pipeline(source: str, unet: nn.Module, output: Output, folder: str) -> None:
    """Write the checkpoint with this U-Net as a whole StableDiffusionPipeline, or XL one; all else stays as it was."""

    def load() -> Any:
        # The class is named here: one that a folder names might be code of its own.
        if cast(Any, unet).config.addition_embed_type == "text_time":
            return StableDiffusionXLPipeline.from_pretrained(source, unet=unet, use_safetensors=True)
        return StableDiffusionPipeline.from_pretrained(
            source, unet=unet, safety_checker=None, requires_safety_checker=False, use_safetensors=True
        )

    pipeline = _loading(source, "pipeline", load)
    with scratch_folder("pipeline") as made:
        pipeline.save_pretrained(made, safe_serialization=True)
        _copy(made, output, folder)


def save_lora(unet: Any, output: Output, folder: str) -> None:
    """Write the low-rank additions as diffusers' pipelines load them (load_lora_weights).

    Their strength alpha / rank goes into the weights: without a word of it, loaders take it to be 1.
    """
    (adapter,) = unet.peft_config.values()
    strength = adapter.lora_alpha / adapter.r
    additions = {
        name: weight * strength if ".lora_B." in name else weight
        for name, weight in get_peft_model_state_dict(unet).items()
    }
    with scratch_folder("lora") as made:
        StableDiffusionPipeline.save_lora_weights(made, unet_lora_layers=additions, safe_serialization=True)
        _copy(made, output, folder)


def _copy(made: Path, output: Output, folder: str) -> None:
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        with output.writing(f"{folder}/{file.relative_to(made).as_posix()}") as path:
            path.write_bytes(file.read_bytes())


def _load(source: str, part: str, load: Callable[..., Any]) -> Any:
    return _loading(source, part, lambda: load(source, subfolder=part, torch_dtype=torch.float32, use_safetensors=True))


def _read_config(source: str, part: str, maker: Any) -> dict[str, Any]:
    read: Mapping[str, Any] = _loading(source, part, lambda: maker.load_config(source, subfolder=part))
    full = maker.from_config({name: value for name, value in read.items() if name != "_name_or_path"}).config
    return {name: value for name, value in full.items() if not name.startswith("_")}


def _loading(source: str, part: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the libraries raise errors of many types
        reason = describe_load_error(error)
        raise InputFault(
            f"train_decoder: diffusers cannot load the {part} of {source} ({reason}): expected a Stable Diffusion "
            "checkpoint in diffusers' format, with safetensors: where there is no network, copy it and give its folder "
            "(path)"
        ) from error
