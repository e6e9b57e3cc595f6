"""Check what a decoder's training reads from outside the store; a kind may have a check of its own in its folder."""

from stages.contract.stage import optional_module
from stages.train_decoder.config import KINDS, TrainDecoderConfig
from stages.training.initial_weights import check_initial


def check(config: TrainDecoderConfig) -> None:
    """Check what the kind needs, the decoder that training begins with, and which weights are kept."""
    config.check_best()
    check_initial(config)
    package = KINDS[config.kind].package
    if package != __package__ and (own := optional_module(package, "check")) is not None:
        own.check(config)
