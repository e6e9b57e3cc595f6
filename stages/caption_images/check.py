"""Check that the captioning model is there, without importing transformers."""

from stages.caption_images.config import CaptionImagesConfig
from stages.caption_images.model_files import PREPROCESSING, WHERE, check_captioner_folder
from stages.contract.errors import InputFault

_TOKENIZERS = frozenset(("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model"))


def check(config: CaptionImagesConfig) -> None:
    """Check that the folder is whole, and what it says."""
    folder = config.model.path
    if not folder.is_dir():
        raise InputFault(
            f"{WHERE}: there is no folder {folder}: give a captioning model in the format of transformers "
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
            f"{WHERE}: {folder} has no {' and no '.join(missing)} (it holds {', '.join(held[:8]) or 'nothing'}): "
            "save model, image processor and tokenizer there by save_pretrained of transformers"
        )
    check_captioner_folder(folder, max_new_tokens=config.max_new_tokens)
