"""Check that the weights of the perceptual network are there."""

from stages.contract.errors import InputFault
from stages.train_autoencoder.config import TrainAutoencoderBase, VggPerceptual
from stages.training.initial_weights import check_initial


def check(config: TrainAutoencoderBase) -> None:
    """Check the weights, those that training begins with, and which are kept."""
    config.check_best()
    check_initial(config)
    if isinstance(config.perceptual, VggPerceptual) and not config.perceptual.path.is_file():
        raise InputFault(
            f"train_autoencoder.perceptual.path: there is no file {config.perceptual.path}: give torchvision's vgg16 "
            "weights, or choose kind: slopes, which needs none"
        )
