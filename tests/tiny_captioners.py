"""Tiny captioning models with random weights, in the folder format of transformers: one for each known type."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

WORDS = (
    *("a", "an", "the", "red", "green", "blue", "yellow", "circle", "square", "star", "ring", "on", "in", "of", "with"),
    *("small", "large", "white", "black", "photo", "image", "left", "right", "top", "bottom", "and", "two", "three"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "<image>")
SIDE = 32


def save_tiny_captioner(folder: Path, kind: str = "blip", *, seed: int = 0, scale: float = 0.4) -> Path:
    """Write a model of this type, its processor and its tokenizer; ``scale`` is the std of its weights."""
    tokenizer = _tokenizer()
    if kind == "llava":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(seed)
    model = _MAKERS[kind](len(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    _image_processor(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[DEC]", eos_token="[SEP]",
    )  # fmt: skip


_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION = _TOWER | {"image_size": SIDE, "patch_size": 16}
_TOKENS = {"pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}


def _blip(num_tokens: int) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = _TOWER | _TOKENS | {"vocab_size": num_tokens, "bos_token_id": 4, "max_position_embeddings": 64}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=dict(_VISION), projection_dim=16))


def _blip_with_replies(num_tokens: int) -> Any:
    from transformers import BlipForQuestionAnswering

    return BlipForQuestionAnswering(_blip(num_tokens).config)


def _git(num_tokens: int) -> Any:
    from transformers import GitConfig, GitForCausalLM

    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return GitForCausalLM(
        GitConfig(vision_config=dict(_VISION), vocab_size=num_tokens, max_position_embeddings=64, **_TOWER, **tokens)
    )


def _blip_2(num_tokens: int, text: Mapping[str, Any]) -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    config = Blip2Config(
        vision_config=dict(_VISION), qformer_config=_TOWER | {"vocab_size": num_tokens, "encoder_hidden_size": 16},
        text_config=_TOKENS | {"vocab_size": num_tokens, "bos_token_id": 4} | text, num_query_tokens=3,
        image_token_index=SPECIAL.index("<image>"),
    )  # fmt: skip
    return Blip2ForConditionalGeneration(config)


def _blip_2_opt(num_tokens: int) -> Any:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    return _blip_2(num_tokens, sizes | {"model_type": "opt", "num_attention_heads": 2, "max_position_embeddings": 64})


def _blip_2_t5(num_tokens: int) -> Any:
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    return _blip_2(num_tokens, sizes | {"model_type": "t5", "decoder_start_token_id": 0})


def _llava(num_tokens: int) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = _TOWER | _TOKENS | {"model_type": "llama", "vocab_size": num_tokens, "bos_token_id": 2}
    config = LlavaConfig(
        text_config=text | {"max_position_embeddings": 64, "num_key_value_heads": 1}, image_seq_length=4,
        vision_config=_VISION | {"model_type": "clip_vision_model", "num_hidden_layers": 2},
        image_token_index=SPECIAL.index("<image>"),
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _encoder_decoder(num_tokens: int) -> Any:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    decoder = GPT2Config(
        vocab_size=num_tokens, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3,
        pad_token_id=0, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    return VisionEncoderDecoderModel(config)


_MAKERS = {
    "blip": _blip, "blip-replies": _blip_with_replies, "blip-2": _blip_2_opt, "blip-2-t5": _blip_2_t5, "git": _git,
    "llava": _llava, "vision-encoder-decoder": _encoder_decoder,
}  # fmt: skip


def _image_processor(kind: str) -> Any:
    from transformers import BlipImageProcessor, CLIPImageProcessor, ViTImageProcessor

    size = {"height": SIDE, "width": SIDE}
    if kind in {"git", "llava"}:
        return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    return (BlipImageProcessor if kind.startswith("blip") else ViTImageProcessor)(size=size)


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of a model's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
