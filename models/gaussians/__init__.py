"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""

from models.gaussians.bank import GaussianBank
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

__all__ = [
    "FittedGaussians",
    "GaussianBank",
    "KMeansState",
    "Moments",
    "assign",
    "deviations",
    "fit_kmeans",
    "moments_of",
    "starting_means",
]
