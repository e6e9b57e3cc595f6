"""Small real things that tests need."""

from pathlib import Path

from stages.encoders.lean_import import import_open_clip

WORDS = (
    "a the at on of in is there picture background shape "
    "circle square triangle star cross ring red orange yellow green teal blue purple pink small large "
    "top left right bottom center white cream mint navy plum forest , ."
)


def save_tiny_clip(folder: Path, *, seed: int = 0, embed_dim: int = 16, image_size: int = 32) -> Path:
    """Save a random CLIP model of a few thousand weights in open_clip's own folder format, tokenizer included."""
    import torch

    open_clip = import_open_clip()
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _save_tokenizer(folder)
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": image_size, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "words",
            "tokenizer_kwargs": {},
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    open_clip.set_model_preprocess_cfg(model, _preprocessing(image_size))
    save_for_hf(model, HFTokenizer(str(folder), context_length=24), config, str(folder), safe_serialization=True)
    return folder


def _preprocessing(image_size: int) -> dict[str, object]:
    mean_and_std = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return {"size": image_size, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", **mean_and_std}


def _save_tokenizer(folder: Path) -> int:
    """Save a tokenizer with one token per word; the end token has the highest number, as CLIP's pooling expects."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *WORDS.split(), "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(vocabulary)
