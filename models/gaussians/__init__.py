"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""

from models.gaussians.bank import GaussianBank, Selection
from models.gaussians.kmeans import (
    FittedGaussians,
    KMeansState,
    Moments,
    assign,
    deviations,
    fit_kmeans,
    moments_of,
    starting_means,
)
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss

__all__ = [
    "NUM_BANK_SAMPLES",
    "FittedGaussians",
    "GaussianBank",
    "KMeansState",
    "Moments",
    "Selection",
    "assign",
    "bank_loss",
    "deviations",
    "fit_kmeans",
    "moments_of",
    "starting_means",
]
