"""Check that what evaluation reads from outside the store is there."""

from stages.contract.errors import InputFault
from stages.encoders.check import check_clip
from stages.encoders.features.check import check_features
from stages.encoders.image_to_text.check import check_question_answering
from stages.evaluate.config import EvaluateConfig


def check(config: EvaluateConfig) -> None:
    """Check the CLIP models, the weights of the features, and the real images."""
    check_features(config.features, "evaluate.features")
    if config.question_answering is not None:
        check_question_answering(config.question_answering, "evaluate.question_answering")
    if config.real is not None and not config.real.is_dir():
        raise InputFault(f"evaluate.real: there is no folder {config.real}: give a folder of real images")
    check_clip(config.clip)
    if config.independent_clip is not None:
        check_clip(config.independent_clip)
