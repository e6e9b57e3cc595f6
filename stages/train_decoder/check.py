"""Check what a decoder's training reads from outside the store; a kind may have a check of its own in its folder."""

from stages.contract.errors import InputFault
from stages.contract.stage import optional_module
from stages.storage.filesystems import explaining
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_decoder.text_config import MODEL_FILES, TextTunedConfig, TextTuning


def check(config: TrainDecoderConfig) -> None:
    """Check what the kind needs, and the decoder that text tuning starts from.

    Raises:
        InputFault: a file is missing.
    """
    if isinstance(config, TextTunedConfig) and config.text is not None:
        _check_start(config.text)
    if (own := optional_module(f"stages.train_decoder.{config.kind}", "check")) is not None:
        own.check(config)


def _check_start(text: TextTuning) -> None:
    source, folder = text.decoder()
    with explaining(text.start):
        missing = [name for name in MODEL_FILES if not source.exists(f"{folder}/{name}")]
    if missing:
        raise InputFault(
            f"train_decoder.text.start: {text.start} has no {' and no '.join(missing)}: expected the folder "
            "decoder/ of a train_decoder artifact (`corgi status RUN --json` shows where artifacts lie)"
        )
