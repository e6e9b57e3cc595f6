"""Check what a decoder's training reads from outside the store; a kind may have a check of its own in its folder."""

from stages.contract.errors import InputFault
from stages.contract.stage import optional_module
from stages.formats.model_folders import missing_files
from stages.storage.filesystems import explaining
from stages.train_decoder.base_config import TextTunedConfig, TextTuning
from stages.train_decoder.config import KINDS, TrainDecoderConfig


def check(config: TrainDecoderConfig) -> None:
    """Check what the kind needs, and the decoder that text tuning begins with."""
    if isinstance(config, TextTunedConfig) and config.text is not None:
        _check_init_checkpoint(config.text)
    package = KINDS[config.kind].package
    if package != __package__ and (own := optional_module(package, "check")) is not None:
        own.check(config)


def _check_init_checkpoint(text: TextTuning) -> None:
    source, folder = text.decoder()
    with explaining(text.init_checkpoint):
        missing = missing_files(source, folder)
    if missing:
        raise InputFault(
            f"train_decoder.text.init_checkpoint: {text.init_checkpoint} has no {' and no '.join(missing)}: expected "
            "the folder decoder/ of a train_decoder artifact (`corgi status RUN --json` shows where artifacts lie)"
        )
