"""The bank of k Gaussians that shifted diffusion starts from.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388), sections 3.1 and 3.2;
method eqs. 4 and 5.

Symbols:
    mu_j       mean of the embeddings assigned to Gaussian j             [k, embed]
    sigma_j    their standard deviation in each dimension                [k, embed]
    kappa      factor on the deviations
    Sigma_j    diag((kappa sigma_j)^2), the covariance of Gaussian j; only its square root is ever needed
    c_y        index of the Gaussian that belongs to caption y           [batch]
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.buffers import ExactBuffers


class GaussianBank(ExactBuffers):
    """k Gaussians with diagonal covariances; means, deviations and kappa are buffers and so travel with checkpoints."""

    means: Tensor
    stds: Tensor
    kappa: Tensor

    def __init__(
        self, means: Float[Tensor, "gauss embed"], stds: Float[Tensor, "gauss embed"], *, kappa: float
    ) -> None:
        """Hold copies of the Gaussians.

        Raises:
            ValueError: shapes differ, a deviation or kappa is not a positive finite number, or a mean is not finite.
        """
        super().__init__()
        if means.ndim != 2 or means.shape != stds.shape or not len(means):
            raise ValueError(
                f"GaussianBank: means {list(means.shape)} and stds {list(stds.shape)} must both be [k, embed], k >= 1"
            )
        if not (torch.isfinite(means).all() and torch.isfinite(stds).all() and (stds > 0).all() and kappa > 0):
            raise ValueError(
                f"GaussianBank: means must be finite, deviations and kappa positive; smallest deviation "
                f"{float(stds.min())}, kappa {kappa}; fit the Gaussians again on finite embeddings"
            )
        self.register_buffer("means", means.detach().clone().float())
        self.register_buffer("stds", stds.detach().clone().float())
        self.register_buffer("kappa", torch.tensor(float(kappa)))

    @classmethod
    def standard(cls, embed_dim: int) -> "GaussianBank":
        """Return the bank of the baseline (DALL-E 2): one Gaussian with mu = 0 and Sigma = I."""
        return cls(torch.zeros(1, embed_dim), torch.ones(1, embed_dim), kappa=1.0)

    @classmethod
    def isotropic(cls, embed_dim: int, std: float) -> "GaussianBank":
        """Return the bank of one Gaussian with mu = 0 and Sigma = std^2 I: the baseline with another noise scale."""
        return cls(torch.zeros(1, embed_dim), torch.full((1, embed_dim), float(std)), kappa=1.0)

    @classmethod
    def blank(cls, num_gaussians: int, embed_dim: int) -> "GaussianBank":
        """Return a bank of this size to load a saved state into."""
        return cls(torch.zeros(num_gaussians, embed_dim), torch.ones(num_gaussians, embed_dim), kappa=1.0)

    @property
    def num_gaussians(self) -> int:
        """How many Gaussians the bank holds (k)."""
        return len(self.means)

    @property
    def embed_dim(self) -> int:
        """Width of an embedding."""
        return self.means.shape[1]

    def select(self, text_embeddings: Float[Tensor, "batch embed"]) -> Int[Tensor, "batch"]:
        """Return c_y = argmax_j cos(mu_j, f_txt(y)) (method eq. 5); ties go to the lowest index."""
        with torch.autocast(self.means.device.type, enabled=False):  # the choice must not depend on the precision
            cosines = F.normalize(text_embeddings.float(), dim=-1) @ F.normalize(self.means, dim=-1).T  # [batch, k]
        return cosines.argmax(-1)

    def moments(self, index: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch embed"], Float[Tensor, "batch embed"]]:
        """Return mu and Sigma^(1/2) = kappa sigma of the Gaussians named by the index."""
        return self.means[index], self.kappa * self.stds[index]
