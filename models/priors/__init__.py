"""Priors: from a caption to a CLIP image embedding."""

from models.priors.autoregressive import AutoregressivePrior
from models.priors.base import Prior
from models.priors.diffusion import DiffusionPrior
from models.priors.identity import IdentityPrior
from models.priors.registry import make_prior
from models.priors.spec import (
    AutoregressivePriorSettings,
    DiffusionPriorSettings,
    IdentityPriorSettings,
    PriorSampling,
    PriorSettings,
    ScheduleSettings,
    TextStateSettings,
    TransformerSettings,
    settings_from_json,
)
from models.priors.text import TextFeatures, TextStates
from models.priors.training import training_batch, training_random_inputs

__all__ = [
    "AutoregressivePrior",
    "AutoregressivePriorSettings",
    "DiffusionPrior",
    "DiffusionPriorSettings",
    "IdentityPrior",
    "IdentityPriorSettings",
    "Prior",
    "PriorSampling",
    "PriorSettings",
    "ScheduleSettings",
    "TextFeatures",
    "TextStateSettings",
    "TextStates",
    "TransformerSettings",
    "make_prior",
    "settings_from_json",
    "training_batch",
    "training_random_inputs",
]
