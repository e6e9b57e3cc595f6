"""Build a prior of any kind from its settings."""

from models.gaussians import GaussianBank
from models.priors.autoregressive import AutoregressivePrior
from models.priors.base import Prior
from models.priors.diffusion import DiffusionPrior
from models.priors.identity import IdentityPrior
from models.priors.spec import AutoregressivePriorSettings, DiffusionPriorSettings, PriorSettings


def make_prior(settings: PriorSettings, bank: GaussianBank | None = None) -> Prior:
    """Build an untrained prior; a diffusion prior without a bank gets a blank one to load a saved state into.

    Raises:
        ValueError: the bank does not fit the settings, or the settings do not fit each other.
    """
    if isinstance(settings, DiffusionPriorSettings):
        return DiffusionPrior(settings, bank or GaussianBank.blank(settings.num_gaussians, settings.embed_dim))
    if isinstance(settings, AutoregressivePriorSettings):
        return AutoregressivePrior(settings)
    return IdentityPrior(settings)
