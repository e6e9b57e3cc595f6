"""What a folder of a vision network may say: types and keys that are known, of sizes that its weights can hold."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.encoders.model_files import (
    MOST_OF_A_SIZE,
    TRANSFORMERS_KEYS,
    check_links,
    check_safetensors_index,
    read_model_json,
    refuse,
    require_keys,
    require_weights,
)

TYPES: Final = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
PREPROCESSOR: Final = "preprocessor_config.json"
TIMM_WEIGHTS: Final = "model.safetensors"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # where a folder does not say
LARGEST_SIDE: Final = 4096  # pixels
_ARCHITECTURE = re.compile(r"[a-z0-9_]{1,100}")
_TIMM_KEYS: Final = ("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg",
                     "label_names", "label_descriptions")  # fmt: skip
_TIMM_SETTINGS: Final = ("img_size", "patch_size", "global_pool", "dynamic_img_size", "class_token", "reg_tokens")
_KEYS: Final = frozenset(
    (
        *("apply_layernorm", "attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "encoder_stride"),
        *("hidden_act", "hidden_dropout_prob", "hidden_size", "image_size", "initializer_range", "intermediate_size"),
        *("key_bias", "layer_norm_eps", "layerscale_value", "mlp_bias", "mlp_ratio", "num_attention_heads"),
        *("num_channels", "num_hidden_layers", "num_register_tokens", "out_features", "out_indices", "patch_size"),
        *("pooler_act", "pooler_output_size", "pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift", "proj_bias"),
        *("qkv_bias", "query_bias", "reshape_hidden_states", "rope_theta", "rope_parameters", "stage_names"),
        *("use_gated_mlp", "use_mask_token", "use_swiglu_ffn", "value_bias"),
    )
)


def check_vision_folder(folder: Path, where: str) -> Mapping[str, Any]:
    """Return the configuration of a folder in the format of transformers, after checking what it says."""
    file, content = _read_config(folder, "a folder in the format of transformers", where)
    if content.get("model_type") not in TYPES:
        raise refuse(where, file, f"model_type is {shown(content.get('model_type'))!r}", f"one of {', '.join(TYPES)}")
    require_keys(content, _KEYS | TRANSFORMERS_KEYS, file, where)
    if not any(folder.glob("*.safetensors")):
        raise InputFault(f"{where}: {folder} has no weights as .safetensors: save the model by save_pretrained")
    require_weights(folder, _numbers(content, file, where), file, where)
    check_safetensors_index(folder, where)
    if (folder / PREPROCESSOR).exists():
        read_model_json(folder / PREPROCESSOR, where)
    return content


def _read_config(folder: Path, allowed: str, where: str) -> tuple[Path, Mapping[str, Any]]:
    """Return config.json and what it says, of a folder that is there and whose links stay within it."""
    if not folder.is_dir():
        raise InputFault(f"{where}: there is no folder {folder}: give {allowed}")
    check_links(folder, where)
    file = folder / "config.json"
    return file, read_model_json(file, where)


def _numbers(content: Mapping[str, Any], file: Path, where: str) -> float:
    """Return how many numbers the layers hold at least."""
    usual = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224, "num_channels": 3}
    sizes = {key: content.get(key, value) for key, value in usual.items()}
    for key, value in sizes.items():
        if isinstance(value, bool) or not (isinstance(value, int) and 0 < value < MOST_OF_A_SIZE):
            raise refuse(where, file, f"{key} is {shown(value)}", f"a number from 1 to {MOST_OF_A_SIZE}")
    patches = sizes["num_channels"] * sizes["patch_size"] ** 2 * sizes["hidden_size"]
    return float(patches + sizes["num_hidden_layers"] * 4 * sizes["hidden_size"] ** 2)


def check_timm_folder(folder: Path, where: str) -> Mapping[str, Any]:
    """Return the configuration of a folder as timm saves it for the hub, after checking what it says."""
    file, content = _read_config(folder, f"one with config.json and {TIMM_WEIGHTS}", where)
    require_keys(content, _TIMM_KEYS, file, where)
    name, settings, prepared = (content.get(key) for key in ("architecture", "model_args", "pretrained_cfg"))
    if not (isinstance(name, str) and _ARCHITECTURE.fullmatch(name)):
        raise refuse(where, file, f"architecture is {shown(name)!r}", "the name of a model of timm")
    for key, value in (("model_args", settings), ("pretrained_cfg", prepared)):
        if not isinstance(value, dict | None):
            raise refuse(where, file, f"{key} is {shown(value)!r}", "a mapping")
    for key, value in (settings or {}).items():
        if key not in _TIMM_SETTINGS or not isinstance(value, int | float | bool | str | None):
            raise refuse(where, file, f"model_args.{shown(key)} is {shown(value)}", f"{', '.join(_TIMM_SETTINGS)}")
        if isinstance(value, int | float) and not 0 <= value <= LARGEST_SIDE:
            raise refuse(where, file, f"model_args.{key} is {shown(value)}", f"a number up to {LARGEST_SIDE}")
    if not (folder / TIMM_WEIGHTS).is_file():
        raise InputFault(f"{where}: {folder} has no {TIMM_WEIGHTS}: save the model as timm does for the hub")
    return content


def read_image_width(folder: Path, where: str, *, is_timm: bool) -> int | None:
    """Return the width of what a folder's network makes of an image; None: the folder does not say it."""
    content = check_timm_folder(folder, where) if is_timm else check_vision_folder(folder, where)
    width = content.get("num_features") if is_timm else content.get("hidden_size", 768)
    return width if isinstance(width, int) and not isinstance(width, bool) and width > 0 else None


def image_side(prepared: Mapping[str, Any], folder: Path, where: str) -> int:
    """Return the side of the images that a model of timm was trained with."""
    found = prepared.get("input_size", (3, 224, 224))
    whole = isinstance(found, list | tuple) and all(isinstance(one, int) and one > 0 for one in found)
    if not whole or len(found) != 3 or found[0] != 3 or found[1] != found[2] or found[1] > LARGEST_SIDE:
        allowed = f"[3, side, side], sides up to {LARGEST_SIDE}"
        raise refuse(where, folder / "config.json", f"pretrained_cfg.input_size is {shown(found)}", allowed)
    return int(found[1])


def channels(prepared: Mapping[str, Any], folder: Path, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the channels that a model of timm was trained with."""
    numbers = [prepared.get(key, default) for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))]
    require_channels(numbers, folder / "config.json", where)
    return tuple(numbers[0]), tuple(numbers[1])


def require_channels(numbers: Sequence[Any], file: Path, where: str) -> None:
    """Refuse mean and standard deviation that are not three numbers each, the latter above 0."""
    for values in numbers:
        if not (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(isinstance(one, int | float) and abs(one) < 100 for one in values)
        ):
            raise refuse(where, file, f"channels of {shown(values)}", "three numbers")
    if not all(one > 0 for one in numbers[1]):
        raise refuse(where, file, f"a standard deviation of {shown(numbers[1])}", "numbers above 0")
