"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""

from models.gaussians.bank import GaussianBank, Selection
from models.gaussians.kmeans import (
    FittedGaussians,
    Kind,
    KMeansState,
    Pass,
    deviations,
    fit_kmeans,
    placed,
)
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss
from models.gaussians.moments import Grid, Moments
from models.gaussians.nearest import Nearest
from models.gaussians.start import Sample, further_means, start_on_sample

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
    "deviations",
    "fit_kmeans",
    "further_means",
    "placed",
    "start_on_sample",
]
