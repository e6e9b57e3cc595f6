"""Check that the weights are there that training begins with."""

from stages.train_upsampler.config import TrainUpsamplerConfig
from stages.training.initial_weights import check_initial


def check(config: TrainUpsamplerConfig) -> None:
    """Check the weights."""
    check_initial(config)
