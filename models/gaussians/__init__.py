"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""

from models.gaussians.bank import GaussianBank, Selection
from models.gaussians.kmeans import (
    FittedGaussians,
    Kind,
    KMeansState,
    Moments,
    Pass,
    deviations,
    fit_kmeans,
    moments_of,
    placed,
)
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss
from models.gaussians.nearest import Nearest, assign, rows_at_once
from models.gaussians.start import further_means, start_on_sample, starting_means

__all__ = [
    "NUM_BANK_SAMPLES",
    "FittedGaussians",
    "GaussianBank",
    "KMeansState",
    "Kind",
    "Moments",
    "Nearest",
    "Pass",
    "Selection",
    "assign",
    "bank_loss",
    "deviations",
    "fit_kmeans",
    "further_means",
    "moments_of",
    "placed",
    "rows_at_once",
    "start_on_sample",
    "starting_means",
]
