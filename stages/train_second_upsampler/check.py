"""Check that the weights are there that training begins with."""

from stages.train_second_upsampler.config import TrainSecondUpsamplerConfig
from stages.training.initial_weights import check_initial


def check(config: TrainSecondUpsamplerConfig) -> None:
    """Check the weights."""
    check_initial(config)
