"""Priors: from a caption to a CLIP image embedding."""

from models.priors.config import PriorSettings, ScheduleSettings, TransformerSettings
from models.priors.prior import DiffusionPrior, Prior, TrainingDraws, make_prior, training_batch, training_draws
from models.priors.text import TextFeatures

__all__ = [
    "DiffusionPrior",
    "Prior",
    "PriorSettings",
    "ScheduleSettings",
    "TextFeatures",
    "TrainingDraws",
    "TransformerSettings",
    "make_prior",
    "training_batch",
    "training_draws",
]
