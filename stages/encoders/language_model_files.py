"""What the folder of a language model may say: types and keys that are known, of sizes that its weights can hold.

To know another type of model is to add it to the table below, and what keys of its configuration are new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
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


class _Sizes(NamedTuple):
    """The keys of a type's sizes: width, layers, inner width of a layer (may be null: 4 x width), rows of tables.

    Of its positions, where they have a table, so many are ``reserved``.
    """

    width: str = "hidden_size"
    layers: str = "num_hidden_layers"
    inner: str = "intermediate_size"
    tables: tuple[str, ...] = ("vocab_size",)
    reserved: int = 0


_WITH_POSITIONS = _Sizes(tables=("vocab_size", "max_position_embeddings"))
#: The types of models; those with learned positions have a table of them beside that of the tokens.
TYPES: Final[Mapping[str, _Sizes]] = {
    "bert": _WITH_POSITIONS,
    "roberta": _WITH_POSITIONS._replace(reserved=2),
    "xlm-roberta": _WITH_POSITIONS._replace(reserved=2),
    "mpnet": _WITH_POSITIONS._replace(reserved=2),
    "distilbert": _Sizes("dim", "n_layers", "hidden_dim", ("vocab_size", "max_position_embeddings")),
    "modernbert": _Sizes(),
    "gpt2": _Sizes("n_embd", "n_layer", "n_inner", ("vocab_size", "n_positions")),
    "llama": _Sizes(),
    "mistral": _Sizes(),
    "qwen2": _Sizes(),
    "qwen3": _Sizes(),
    "gemma": _Sizes(),
    "gemma2": _Sizes(),
    "gemma3_text": _Sizes(),
}
LANGUAGE_MODEL_KEYS: Final = frozenset(
    (
        *("_sliding_window_pattern", "activation", "activation_function", "attention_bias", "attention_dropout"),
        *("attention_probs_dropout_prob", "attn_logit_softcapping", "attn_pdrop", "classifier_activation"),
        *("classifier_bias", "classifier_dropout", "classifier_pooling", "cls_token_id", "decoder_bias"),
        *("deterministic_flash_attn", "dim", "dropout", "embd_pdrop", "embedding_dropout", "final_logit_softcapping"),
        *("head_dim", "hidden_act", "hidden_activation", "hidden_dim", "hidden_dropout_prob", "hidden_size"),
        *("initializer_cutoff_factor", "initializer_range", "intermediate_size", "layer_norm_eps", "n_ctx"),
        *("layer_norm_epsilon", "layer_types", "local_attention", "max_position_embeddings", "max_window_layers"),
        *("mlp_bias", "mlp_dropout", "n_embd", "n_head", "n_heads", "n_inner", "n_layer", "n_layers", "n_positions"),
        *("norm_bias", "norm_eps", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"),
        *("position_embedding_type", "pretraining_tp", "qa_dropout", "query_pre_attn_scalar", "cache_implementation"),
        *("relative_attention_num_buckets", "reorder_and_upcast_attn", "resid_pdrop", "rms_norm_eps"),
        *("rope_local_base_freq", "rope_parameters", "rope_scaling", "rope_theta", "global_rope_theta"),
        *("local_rope_theta", "global_attn_every_n_layers", "sliding_window_pattern", "mask_token_id"),
        *("scale_attn_by_inverse_layer_idx", "scale_attn_weights", "seq_classif_dropout", "sinusoidal_pos_embds"),
        *("sliding_window", "sparse_pred_ignore_index", "sparse_prediction", "summary_activation"),
        *("summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "type_vocab_size"),
        *("use_bidirectional_attention", "use_sliding_window", "vocab_size"),
    )
)
_MOST_TYPES = 1024  # of segments, which BERT has 2 of


def check_language_model_folder(folder: Path, where: str, *, max_length: int) -> None:
    """Check what the folder of a language model says, and that it has positions for so many tokens."""
    check_links(folder, where)
    file = folder / "config.json"
    content = read_model_json(file, where)
    sizes = _sizes_of(content, file, where)
    require_keys(content, LANGUAGE_MODEL_KEYS | TRANSFORMERS_KEYS, file, where)
    width, layers = (_size(content, key, file, where) for key in (sizes.width, sizes.layers))
    inner = 4 * width if content.get(sizes.inner) is None else _size(content, sizes.inner, file, where)
    rows = sum(_size(content, key, file, where) for key in sizes.tables)
    segments = content.get("type_vocab_size")
    if segments is not None and not (_is_whole(segments) and 0 <= segments <= _MOST_TYPES):
        raise refuse(where, file, f"type_vocab_size is {shown(segments)}", f"a number from 0 to {_MOST_TYPES}")
    require_weights(folder, float(width * (rows + layers * 2 * inner)), file, where)
    if len(sizes.tables) > 1 and max_length > (most := content[sizes.tables[1]] - sizes.reserved):
        raise InputFault(
            f"{where.removesuffix('.path')}.max_length: found {max_length}: expected at most {most}, for which "
            f"{shown(folder.name)} has positions: lower it"
        )
    check_tokenizer(folder, where)
    check_safetensors_index(folder, where)


def read_width(folder: Path, where: str) -> int:
    """Return the width of the states of a language model's last layer."""
    file = folder / "config.json"
    content = read_model_json(file, where)
    return _size(content, _sizes_of(content, file, where).width, file, where)


def _sizes_of(content: Mapping[str, Any], file: Path, where: str) -> _Sizes:
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise refuse(where, file, f"model_type is {shown(kind)!r}", f"one of {', '.join(TYPES)} (t5: text_states.t5)")
    return TYPES[kind]


def _size(content: Mapping[str, Any], key: str, file: Path, where: str) -> int:
    """Return a size, which has to be given: without it the model would be built of the library's own."""
    value = content.get(key)
    if not (_is_whole(value) and 0 < value < MOST_OF_A_SIZE):
        raise refuse(where, file, f"{key} is {shown(value)}", f"a number from 1 to {MOST_OF_A_SIZE}")
    return value


def _is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value of a configuration is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
