"""What the files of a model folder may say: an allow-list, checked before any library reads the folder.

A folder from strangers can name Python code, files outside itself, names on a hub and packages to import, which the
libraries would follow. So every key is known here, or the folder is refused by the name of the key; weights are read as
safetensors, or by torch's loader of tensors alone.
"""

import os
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stages.contract.errors import InputFault
from stages.contract.parsing import describe_parser_error, load_json, parsing, shown

_MOST_OF_JSON = 64_000_000  # bytes; a vocabulary of a million words has 30 MB
MOST_OF_A_SIZE = 10_000_000  # of any size in a configuration
_WORD = re.compile(r"[A-Za-z0-9_.\-]{0,100}")
_FILE = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,200}")

#: What names code, packages or other places, with which no file of a folder may deal, however deep in it.
_FORBIDDEN = {
    "auto_map": "names Python code to run",
    "trust_remote_code": "asks to run Python code",
    "custom_pipeline": "names Python code to run",
    "custom_pipelines": "names Python code to run",
    "quantization_config": "names a package to import",
    "attn_implementation": "names code to fetch",
    "_attn_implementation": "names code to fetch",
    "fast_tokenizer_files": "names files by pattern",
    "init_inputs": "names files of any place",
}
_TOKENIZER_KEYS = frozenset(
    (
        *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens"),
        *("extra_special_tokens", "model_specific_special_tokens", "backend", "clean_up_tokenization_spaces"),
        *("do_lower_case", "do_basic_tokenize", "never_split", "tokenize_chinese_chars", "strip_accents", "errors"),
        *("extra_ids", "legacy", "model_max_length", "max_length", "max_len", "name_or_path", "padding_side"),
        *("truncation_side", "truncation_strategy", "sp_model_kwargs", "tokenizer_class", "model_input_names"),
        *("chat_template", "processor_class", "trim_offsets", "src_lang", "tgt_lang", "lang", "language_codes"),
        *("use_default_system_prompt", "spaces_between_special_tokens", "split_special_tokens", "stride", "use_fast"),
        *("pad_token_type_id", "pad_to_multiple_of", "is_local", "local_files_only", "keep_accents", "verbose"),
        *("_commit_hash", "return_token_type_ids", "pad_token_id", "bos_token_id", "eos_token_id", "token_type_ids"),
        *("special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file", "added_tokens_file"),
    )
)
#: Whose files are data alone: tokenizer.json, vocabularies, merges, sentencepiece models.
_TOKENIZER_CLASS = re.compile(
    r"TokenizersBackend|PythonBackend|PreTrainedTokenizer(Fast)?|"
    r"(CLIP|T5|MT5|Bert|DistilBert|Roberta|XLMRoberta|Gemma|Llama|GPT2|Qwen2|Siglip2?|MPNet|Nllb|Albert|Camembert|Electra)"
    r"Tokenizer(Fast)?"
)
_T5_KEYS = frozenset(
    (
        *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate"),
        *("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon", "n_positions"),
        *("initializer_factor", "feed_forward_proj", "classifier_dropout", "dense_act_fn", "is_gated_act"),
        *("scale_decoder_outputs", "output_past"),
    )
)
_CLIP_TEXT_KEYS = frozenset(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
        *("max_position_embeddings", "layer_norm_eps", "attention_dropout", "dropout", "initializer_range"),
        *("initializer_factor", "projection_dim", "vocab_size"),
    )
)
TRANSFORMERS_KEYS = frozenset(
    (
        *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "use_cache"),
        *("is_encoder_decoder", "is_decoder", "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"),
        *("decoder_start_token_id", "tie_word_embeddings", "tie_encoder_decoder", "task_specific_params"),
        *("output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_bfloat16", "id2label"),
        *("label2id", "problem_type", "finetuning_task", "gradient_checkpointing", "cross_attention_hidden_size"),
        *("add_cross_attention", "chunk_size_feed_forward", "prefix", "pruned_heads", "tokenizer_class"),
    )
)
_DIFFUSERS_LIBRARIES = frozenset(("diffusers", "transformers", "stable_diffusion"))
_DIFFUSERS_PARTS = frozenset(
    (
        *("vae", "unet", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor"),
        "image_encoder",
    )
)


def refuse(where: str, file: Path, found: str, allowed: str) -> InputFault:
    """Return the error of a file of a model folder."""
    return InputFault(
        f"{where}: {shown(file)}: {found}: allowed is {allowed}: take this out of the file if you trust the folder, or "
        "get the model elsewhere"
    )


def describe_load_error(error: Exception) -> str:
    """Return what a library raised for a model's files; torch's own words on unpickling say how to run the code."""
    if isinstance(error, pickle.UnpicklingError):
        return "its weights hold more than tensors, which could run code"
    return describe_parser_error(error)


def read_model_json(file: Path, where: str) -> dict[str, Any]:
    """Return the mapping in a JSON file of a model folder, in which no key names code or other places."""

    def cannot(reason: str) -> InputFault:
        return refuse(where, file, f"it cannot be read as JSON ({reason})", "a mapping")

    with parsing(cannot):
        if not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened:
            content = load_json(opened.read(_MOST_OF_JSON + 1), max_bytes=_MOST_OF_JSON)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    _refuse_forbidden(content, file, where)
    return content


def _refuse_forbidden(content: Any, file: Path, where: str) -> None:
    values = [content]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            for key, reason in _FORBIDDEN.items():
                if value.get(key) not in (None, [], {}, ()):
                    raise refuse(where, file, f"the key {key} {reason}", "none of this")
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)


def require_keys(content: Mapping[str, Any], known: Collection[str], file: Path, where: str) -> None:
    """Refuse a mapping with a key that is not known."""
    if unknown := sorted(set(content) - set(known)):
        raise refuse(where, file, f"unknown keys {', '.join(map(shown, unknown[:5]))}", "what is known of such models")


def check_tokenizer(folder: Path, where: str) -> None:
    """Check what the files of a tokenizer say: its class is one of those that read data alone."""
    for name in ("config.json", "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json"):
        if (file := folder / name).exists():
            read_model_json(file, where)
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return
    content = read_model_json(file, where)
    require_keys({key: None for key in content if not key.endswith("_token")}, _TOKENIZER_KEYS, file, where)
    kind = content.get("tokenizer_class")
    if kind is not None and not (isinstance(kind, str) and _TOKENIZER_CLASS.fullmatch(kind)):
        raise refuse(where, file, f"tokenizer_class is {shown(kind)!r}", "a tokenizer that reads data files alone")
    options = content.get("sp_model_kwargs") or {}
    if not (isinstance(options, dict) and set(options) <= {"enable_sampling", "nbest_size", "alpha"}):
        raise refuse(where, file, "sp_model_kwargs holds more than numbers", "enable_sampling, nbest_size and alpha")


def check_safetensors_index(folder: Path, where: str) -> None:
    """Check that an index of weights names files of the folder alone."""
    for file in sorted(folder.glob("*.index.json")):
        names = read_model_json(file, where).get("weight_map")
        if not isinstance(names, dict):
            raise refuse(where, file, "no mapping weight_map", "one from tensors to files of the folder")
        for name in set(map(str, names.values())):
            if not _FILE.fullmatch(name):
                raise refuse(where, file, f"the weights {shown(name)!r}", "names of files in the same folder")


def check_links(folder: Path, where: str) -> None:
    """Refuse links that lead out of a model folder, whose files are copied to where models are registered.

    In the cache of the Hugging Face hub, the files of ``snapshots/<revision>`` are links to ``blobs``.
    """
    root = folder.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    for file in folder.rglob("*"):
        target = Path(os.path.realpath(file))  # of links in a circle, too
        if file.is_symlink() and not any(target.is_relative_to(top) for top in allowed):
            raise refuse(where, file, "a link that leads out of the folder", "files in it")


def require_weights(folder: Path, at_least: float, file: Path, where: str) -> None:
    """Refuse a model that is larger than its weights can be, before so much memory is taken for it."""
    weights = [one for one in folder.iterdir() if one.suffix in (".safetensors", ".bin", ".pth")]
    held = sum(one.stat().st_size for one in weights if one.is_file())  # a link may lead to nothing
    if at_least > held:
        allowed = f"what {held:,} bytes of weights beside it can hold"
        raise refuse(where, file, f"a model of {at_least:.3g} numbers or more", allowed)


def require_token_range(tokenizer: Any, num_tokens: int, reference: str, where: str) -> None:
    """Refuse a tokenizer that knows tokens of which the model has no embedding: it would be read beyond its end."""
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= num_tokens:
        raise InputFault(
            f"{where}: {shown(reference)} has embeddings of {num_tokens:,} tokens, and its tokenizer numbers them up "
            f"to {highest:,}: expected fewer: give model and tokenizer that belong together"
        )


def check_t5_folder(folder: Path, where: str) -> None:
    """Check what a T5 folder says."""
    check_links(folder, where)
    file = folder / "config.json"
    content = read_model_json(file, where)
    if content.get("model_type") == "t5":  # another model is refused by its type
        require_keys(content, _T5_KEYS | TRANSFORMERS_KEYS, file, where)
        require_weights(folder, _t5_numbers(content, file, where), file, where)
    check_tokenizer(folder, where)
    check_safetensors_index(folder, where)


def _t5_numbers(content: Mapping[str, Any], file: Path, where: str) -> float:
    """Return how many numbers the encoder's layers hold at least."""
    usual = {"num_layers": 6, "d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048}  # of transformers' T5Config
    sizes = {key: content.get(key, value) for key, value in usual.items()}
    for key, value in sizes.items():
        if not (isinstance(value, int) and 0 < value < MOST_OF_A_SIZE):
            raise refuse(where, file, f"{key} is {shown(value)}", f"a number from 1 to {MOST_OF_A_SIZE}")
    attention = 4 * sizes["d_model"] * sizes["d_kv"] * sizes["num_heads"]
    return float(sizes["num_layers"] * (attention + 2 * sizes["d_model"] * sizes["d_ff"]))


def check_diffusers_folder(folder: Path, where: str) -> None:
    """Check what the checkpoint of a Stable Diffusion says: its parts, and the files of each."""
    check_links(folder, where)
    file = folder / "model_index.json"
    if file.exists():
        _check_model_index(read_model_json(file, where), file, where)
    for part in sorted(_DIFFUSERS_PARTS):
        if not (folder / part).is_dir():
            continue
        for config in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
            if (folder / part / config).exists():
                content = read_model_json(folder / part / config, where)
                if part == "text_encoder":
                    require_keys(content, _CLIP_TEXT_KEYS | TRANSFORMERS_KEYS, folder / part / config, where)
        check_tokenizer(folder / part, where)
        check_safetensors_index(folder / part, where)


def _check_model_index(content: Mapping[str, Any], file: Path, where: str) -> None:
    parts = {key: value for key, value in content.items() if isinstance(value, list)}
    require_keys(parts, _DIFFUSERS_PARTS, file, where)
    for key, value in parts.items():
        if any(one is not None for one in value):
            library, kind = (*value, None)[:2] if len(value) == 2 else (None, None)
            is_class = isinstance(kind, str) and _WORD.fullmatch(kind)
            if not (isinstance(library, str) and library in _DIFFUSERS_LIBRARIES and is_class):
                raise refuse(
                    where, file, f"{key} is {shown(value)}", f"a class of {', '.join(sorted(_DIFFUSERS_LIBRARIES))}"
                )
    others = {key: value for key, value in content.items() if key not in parts and not key.startswith("_")}
    require_keys(others, ("requires_safety_checker", "force_zeros_for_empty_prompt", "add_watermarker"), file, where)
    if content.get("_class_name") not in ("StableDiffusionPipeline", None):
        raise refuse(where, file, f"_class_name is {shown(content.get('_class_name'))!r}", "StableDiffusionPipeline")
