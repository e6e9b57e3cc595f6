"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""

from models.gaussians.bank import GaussianBank, Selection
from models.gaussians.initialization import Sample, further_means, initialize_on_sample
from models.gaussians.kmeans import (
    FittedGaussians,
    Kind,
    KMeansState,
    Pass,
    fit_kmeans,
    member_stds,
    placed,
)
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss
from models.gaussians.moments import Grid, Moments
from models.gaussians.nearest import Nearest

__all__ = [
    "NUM_BANK_SAMPLES",
    "FittedGaussians",
    "GaussianBank",
    "Grid",
    "KMeansState",
    "Kind",
    "Moments",
    "Nearest",
    "Pass",
    "Sample",
    "Selection",
    "bank_loss",
    "fit_kmeans",
    "further_means",
    "initialize_on_sample",
    "member_stds",
    "placed",
]
