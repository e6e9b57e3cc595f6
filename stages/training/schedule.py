"""The learning rate at each step."""

import math

from stages.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the rate of the step (from 0): a linear rise over the warm-up, then constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(config: TrainingConfig, step: int) -> float:
    """Return the decay after the step (from 0): lower at first, so that the random start is forgotten."""
    return min(config.ema_decay, (1 + step) / (10 + step))
