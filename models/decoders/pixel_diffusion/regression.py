"""An image regressed on an embedding: the mean that the U-Net starts from, so that it has only the rest to learn.

Papers: Whang et al., Deblurring via stochastic refinement (arXiv 2112.02475), whose initial predictor it is; Mardani et
al., Residual corrective diffusion modeling (arXiv 2309.15214). There the residual is diffused; here the U-Net sees the
regressed image and predicts x_0 as that image and a rest, so that the noise process stays what it is.

Symbols: u = standardized embedding: [batch, embed]; x_0 = image; g(u) = E[x_0 | u], the regressed image.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch 3 height width"]
Embeddings = Float[Tensor, "batch embed"]


class ImageRegression(nn.Module):
    """g: an MLP of two hidden layers from u to all pixels of a square image."""

    def __init__(self, embed_dim: int, *, hidden: int, resolution: int) -> None:
        super().__init__()
        self._shape = (3, resolution, resolution)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 3 * resolution**2),
        )

    def forward(self, u: Embeddings, size: torch.Size) -> Images:
        """Return g(u) in single precision, brought to a size of rows and columns."""
        image: Tensor = self.mlp(u).unflatten(1, self._shape).float()
        if image.shape[-2:] == size:
            return image
        return nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)

    def loss(self, u: Embeddings, x_0: Images) -> Float[Tensor, "batch"]:
        """Return each sample's mean squared error of g(u)."""
        error: Images = self(u, x_0.shape[-2:]) - x_0
        return error.square().mean(dim=(1, 2, 3))
