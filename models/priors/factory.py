"""Build a prior of any kind from its settings."""

from models.gaussians import GaussianBank
from models.priors.base import Prior
from models.priors.config import DiffusionPriorSettings, IdentityPriorSettings, PriorSettings
from models.priors.identity import IdentityPrior
from models.priors.prior import DiffusionPrior


def make_prior(settings: PriorSettings, bank: GaussianBank | None = None) -> Prior:
    """Build an untrained prior; a diffusion prior without a bank gets a blank one to load a saved state into.

    Raises:
        ValueError: the bank does not fit the settings, or the kind of prior is none that can be built.
    """
    if isinstance(settings, DiffusionPriorSettings):
        return DiffusionPrior(settings, bank or GaussianBank.blank(settings.num_gaussians, settings.embed_dim))
    if isinstance(settings, IdentityPriorSettings):
        return IdentityPrior(settings)
    raise ValueError(f"make_prior: kind is {settings.kind!r}: allowed are shifted, gaussian and identity")
