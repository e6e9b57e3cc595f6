"""What the folder of a model from images to texts may say: known types, parts and keys, and sizes that can be held.

To know another type is to add it to :data:`TYPES`, what keys of its configuration are new, and a tiny random model of
it to the tests. How each is asked stands with what asks it, captioning or question answering.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.encoders.language_model_files import LANGUAGE_MODEL_KEYS
from stages.encoders.model_files import (
    MOST_OF_A_SIZE,
    TRANSFORMERS_KEYS,
    check_links,
    check_safetensors_index,
    check_tokenizer,
    read_model_json,
    refuse,
    require_keys,
    require_weights,
)

PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
GENERATION = "generation_config.json"


class Kind(NamedTuple):
    """A type of model: the types that each of its parts may have, and where the part that writes has its positions."""

    parts: Mapping[str, tuple[str, ...]]
    writer: str | None
    """The part that writes the text; None: the model itself."""


_TOKENIZERS = frozenset(("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model"))
_DECODERS = ("gpt2", "bert", "roberta")
#: By the name of transformers.
TYPES: Final[Mapping[str, Kind]] = {
    "blip": Kind({"text_config": ("blip_text_model",), "vision_config": ("blip_vision_model",)}, "text_config"),
    "blip-2": Kind(
        {
            "text_config": ("opt", "t5"),
            "vision_config": ("blip_2_vision_model",),
            "qformer_config": ("blip_2_qformer",),
        },
        "text_config",
    ),
    "llava": Kind(
        {
            "text_config": ("llama", "mistral", "qwen2", "gemma", "gemma2"),
            "vision_config": ("clip_vision_model", "siglip_vision_model"),
        },
        "text_config",
    ),
    "git": Kind({"vision_config": ("git_vision_model",)}, None),
    "vision-encoder-decoder": Kind({"encoder": ("vit", "deit"), "decoder": _DECODERS}, "decoder"),
}
_MOST_LAYERS = 256
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers")
_WIDTHS: Final = ("hidden_size", "n_embd")
_POSITIONS: Final = {"roberta": 2}  # so many positions are reserved
_KEYS: Final = frozenset(
    (
        *("text_config", "vision_config", "encoder", "decoder", "text_config_dict", "vision_config_dict"),
        *("projection_dim", "logit_scale_init_value", "image_text_hidden_size", "label_smoothing"),
        *("initializer_factor", "encoder_hidden_size", "dropout", "image_size", "patch_size", "num_channels"),
        *("num_image_with_embedding", "qkv_bias", "encoder_stride", "pooler_act", "pooler_output_size"),
        *("_commit_hash", "num_attention_heads", "fc_dropout", "intermediate_size"),
        # BLIP-2's, with the parts that are OPT and T5
        *("qformer_config", "num_query_tokens", "image_token_index", "image_token_id", "cross_attention_frequency"),
        *("use_qformer_text_input", "use_decoder_only_language_model", "word_embed_proj_dim", "ffn_dim", "layerdrop"),
        *("_remove_final_layer_norm", "do_layer_norm_before", "enable_bias", "init_std", "prefix"),
        *("layer_norm_elementwise_affine", "d_ff", "d_kv", "d_model", "dense_act_fn", "dropout_rate", "n_positions"),
        *("feed_forward_proj", "is_gated_act", "num_decoder_layers", "num_heads", "num_layers", "output_past"),
        *("relative_attention_max_distance", "scale_decoder_outputs", "task_specific_params"),
        # LLaVA's, with a part that is CLIP's or SigLIP's
        *("image_seq_length", "ignore_index", "vision_feature_layer", "vision_feature_select_strategy"),
        *("projector_hidden_act", "multimodal_projector_bias", "vision_use_head"),
        # settings of generation, which files of earlier versions of transformers hold
        *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
        *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values"),
        *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "tf_legacy_loss"),
        *("top_k", "top_p", "typical_p"),
    )
)
_GENERATION_KEYS: Final = frozenset(
    (
        *("_from_model_config", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "max_length", "max_new_tokens"),
        *("min_length", "num_beams", "do_sample", "temperature", "top_k", "top_p", "length_penalty", "use_cache"),
        *("no_repeat_ngram_size", "repetition_penalty", "early_stopping", "num_return_sequences"),
        *("output_attentions", "output_hidden_states", "return_dict_in_generate", "output_scores"),
        *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
    )
)
_PREPROCESSING_KEYS: Final = frozenset(
    (
        *("do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "do_center_crop", "do_pad", "crop_size", "size"),
        *("image_mean", "image_std", "resample", "rescale_factor", "image_processor_type", "feature_extractor_type"),
        *("processor_class", "default_to_square", "data_format", "input_data_format", "return_tensors", "device"),
        *("disable_grouping", "pad_size", "size_divisor", "_valid_processor_keys", "use_square_size"),
        *("image_processor", "num_query_tokens", "image_token", "patch_size", "num_additional_image_tokens"),
        "vision_feature_select_strategy",
    )
)
_PROCESSORS: Final = frozenset(
    f"{name}{end}"
    for name in ("Blip", "CLIP", "ViT", "DeiT", "Siglip")
    for end in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)
_MOST_PIXELS = 2048  # a side of what the model sees


def check_image_to_text_folder(
    folder: Path, *, where: str, max_new_tokens: int, setting: str, types: Collection[str] = tuple(TYPES)
) -> None:
    """Check what a folder says: type and parts, preprocessing, generation, tokenizer, and positions for the tokens.

    ``setting`` is the key of the most tokens; ``types`` are those of its users' known types that it may have.
    """
    _require_whole(folder, where)
    check_links(folder, where)
    file = folder / "config.json"
    content = read_model_json(file, where)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in types:
        raise refuse(where, file, f"model_type is {shown(kind)!r}", f"one of {', '.join(types)}")
    parts = _parts_of(content, TYPES[kind], file, where)
    for part in (content, *parts.values()):
        _check_part(part, file, where)
    numbers = sum(_least_numbers(part) for part in (content, *parts.values()))
    require_weights(folder, numbers, file, where)
    writer = parts.get(TYPES[kind].writer or "", content)
    before = _num_query_tokens(content, file, where) + _num_patches(content)
    _require_positions(writer, folder, setting, max_new_tokens, before=before)
    _check_preprocessing(folder, where)
    if (folder / GENERATION).exists():
        settings = read_model_json(folder / GENERATION, where)
        require_keys(settings, _GENERATION_KEYS, folder / GENERATION, where)
    check_tokenizer(folder, where)
    check_safetensors_index(folder, where)


def _require_whole(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise InputFault(
            f"{where}: there is no folder {folder}: give a model in the format of transformers "
            "(config.json, weights as safetensors, preprocessor_config.json, tokenizer)"
        )
    held = sorted(entry.name for entry in folder.iterdir())
    present = {
        "config.json": "config.json" in held,
        "weights as .safetensors": any(name.endswith(".safetensors") for name in held),
        " or ".join(PREPROCESSING): bool(set(PREPROCESSING) & set(held)),
        "tokenizer.json": bool(_TOKENIZERS & set(held)),
    }
    missing = [what for what, is_present in present.items() if not is_present]
    if missing:
        raise InputFault(
            f"{where}: {folder} has no {' and no '.join(missing)} (it holds {', '.join(held[:8]) or 'nothing'}): "
            "save model, image processor and tokenizer there by save_pretrained of transformers"
        )


def _parts_of(content: Mapping[str, Any], kind: Kind, file: Path, where: str) -> dict[str, Mapping[str, Any]]:
    """Return the configurations of the parts, of types that are known; a part may leave its type out."""
    parts = {name: content.get(name) or {} for name in kind.parts}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise refuse(where, file, f"{name} is {shown(part)}", "a mapping")
        found = part.get("model_type", kind.parts[name][0] if len(kind.parts[name]) == 1 else None)
        if found not in kind.parts[name]:
            raise refuse(where, file, f"{name}.model_type is {shown(found)!r}", f"one of {', '.join(kind.parts[name])}")
    known = ("text_config", "vision_config", "qformer_config", "encoder", "decoder")
    others = {name for name in known if content.get(name)}
    others |= {name for name in ("text_config_dict", "vision_config_dict") if content.get(name)}
    if unknown := sorted(others - parts.keys()):
        raise refuse(where, file, f"the part {unknown[0]}", f"the parts {', '.join(parts)}")
    return parts


def _check_part(part: Mapping[str, Any], file: Path, where: str) -> None:
    require_keys(part, _KEYS | LANGUAGE_MODEL_KEYS | TRANSFORMERS_KEYS, file, where)
    for key, value in part.items():
        most = _MOST_LAYERS if key in _LAYERS else MOST_OF_A_SIZE
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int) and abs(one) > most:
                raise refuse(where, file, f"{key} is {shown(one)}", f"a number up to {most}")


def _least_numbers(part: Mapping[str, Any]) -> float:
    """Return how many numbers a part has at least, as far as its sizes are given."""
    width, layers = (next((part[key] for key in keys if key in part), None) for keys in (_WIDTHS, _LAYERS))
    if not isinstance(width, int) or not isinstance(layers, int):
        return 0.0
    inner, words = part.get("intermediate_size"), part.get("vocab_size")
    found = 2.0 * width * inner * layers if isinstance(inner, int) else 0.0
    return found + (float(width * words) if isinstance(words, int) else 0.0)


def _num_query_tokens(content: Mapping[str, Any], file: Path, where: str) -> int:
    """Return how many tokens stand for the image; a BLIP-2 that does not say which one does is refused."""
    if content["model_type"] != "blip-2":
        return 0
    for key, least in (("num_query_tokens", 1), ("image_token_index", 0)):
        if not isinstance(content.get(key), int) or not least <= content[key] <= MOST_OF_A_SIZE:
            found = f"{key} is {shown(content.get(key))}"
            raise refuse(where, file, found, f"a whole number from {least} to {MOST_OF_A_SIZE}: save the model again")
    return int(content["num_query_tokens"])


def _num_patches(content: Mapping[str, Any]) -> int:
    """Return how many tokens stand for the image among those of a LLaVA, as far as its sizes are given."""
    if content["model_type"] != "llava":
        return 0
    side, patch = (content["vision_config"].get(key) for key in ("image_size", "patch_size"))
    return (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) and 0 < patch <= side else 0


def _require_positions(
    writer: Mapping[str, Any], folder: Path, setting: str, max_new_tokens: int, *, before: int
) -> None:
    positions = writer.get("n_positions", writer.get("max_position_embeddings"))
    if not isinstance(positions, int) or writer.get("model_type") == "t5":  # whose positions are relative
        return
    most = positions - _POSITIONS.get(str(writer.get("model_type")), 0) - 1 - before  # 1: the token that begins
    if most < 1:
        found = f"{positions} positions, and {positions - most} are taken before the first word"
        raise InputFault(f"{setting}: the model {shown(folder.name)} has {found}: choose one that has more")
    if max_new_tokens > most:
        raise InputFault(
            f"{setting}: found {max_new_tokens}: expected at most {most}, for which "
            f"{shown(folder.name)} has positions: lower it"
        )


def _check_preprocessing(folder: Path, where: str) -> None:
    """Check how images are prepared: by a processor of the library, to a size that can be held."""
    for name in PREPROCESSING:
        file = folder / name
        if not file.exists():
            continue
        content = read_model_json(file, where)
        inner = content.get("image_processor") or {}
        for part in (content, inner if isinstance(inner, dict) else {"image_processor": inner}):
            require_keys(part, _PREPROCESSING_KEYS, file, where)
            for key in ("image_processor_type", "feature_extractor_type"):
                kind = part.get(key)
                if kind is not None and not (isinstance(kind, str) and kind in _PROCESSORS):
                    raise refuse(where, file, f"{key} is {shown(kind)!r}", ", ".join(sorted(_PROCESSORS)))
            for key in ("size", "crop_size", "pad_size", "size_divisor"):
                _require_small(part.get(key), key, file, where)


def _require_small(value: Any, key: str, file: Path, where: str) -> None:
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
        if one is not None and not (isinstance(one, int) and 0 < one <= _MOST_PIXELS):
            raise refuse(where, file, f"{key} is {shown(value)}", f"whole numbers of pixels up to {_MOST_PIXELS}")


def require_room(auto_class: Any, config: Any, folder: Path, where: str) -> None:
    """Refuse a model that is larger than its weights can be, before memory is taken for it: a byte a number or more."""
    import torch

    with torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=False)
    require_weights(folder, sum(weight.numel() for weight in model.parameters()), folder / "config.json", where)
