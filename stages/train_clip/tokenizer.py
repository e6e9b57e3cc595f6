"""Learn a small tokenizer from captions and keep it as open_clip reads it."""

from collections.abc import Iterable
from pathlib import Path

from stages.contract.errors import InputFault
from stages.formats.clip_folders import TOKENIZER, copy_tokenizer
from stages.storage.artifact import Output
from stages.train_clip.config import TrainClipConfig
from stages.training.initial_weights import initial_folder, read_clip_config

PAD, START, END = "<pad>", "<start>", "<end>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int, context_length: int, folder: Path) -> int:
    """Save a byte-level BPE tokenizer in the folder and return the number of its tokens.

    All bytes are tokens, so no text is unknown. The end token has the highest number of all: that is where
    open_clip reads a caption's embedding.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, special_tokens=[PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens([START, END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, model_max_length=context_length
    ).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def take_tokenizer(config: TrainClipConfig, output: Output) -> int:
    """Copy the tokenizer of the model to begin with, whose text tower knows no other, and return its number of tokens.

    Raises:
        InputFault: the model has none beside it, or does not say how many tokens it knows.
    """
    source, folder = initial_folder(config)
    missing = [name for name in TOKENIZER if not source.exists(f"{folder}/{name}")]
    size = read_clip_config(config).get("text_cfg", {})
    num_tokens = size.get("vocab_size") if isinstance(size, dict) else None
    if missing or not isinstance(num_tokens, int):
        found = f"no {' and no '.join(missing)}" if missing else "no text_cfg.vocab_size"
        raise InputFault(
            f"train_clip.init_from: {source.path(folder)} has {found}: expected a CLIP with its tokenizer, as "
            "train_clip and open_clip's save_for_hf write it: name another"
        )
    copy_tokenizer(source, folder, output)
    return num_tokens
