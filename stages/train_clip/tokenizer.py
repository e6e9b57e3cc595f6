"""Learn a small tokenizer from captions and keep it as open_clip reads it."""

from collections.abc import Iterable
from pathlib import Path

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
