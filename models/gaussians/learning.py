"""The loss that learnable Gaussians are trained by, and nothing else.

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388), section 3.2; method eq. 6.

Symbols: z_0 = embeddings of images [batch, embed]; z_T^(m) = mu + Sigma^(1/2) eps^(m), m = 1 ... 16, samples of the
Gaussians of their captions [batch, 16, embed]; xi = weight of the separation.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.whole_batch import ALONE, WholeBatch

NUM_BANK_SAMPLES = 16


def bank_loss(
    z_0: Float[Tensor, "batch embed"],
    index: Int[Tensor, "batch"],
    mean: Float[Tensor, "batch embed"],
    std: Float[Tensor, "batch embed"],
    noise: Float[Tensor, "batch samples embed"],
    *,
    separation_weight: float,
    whole_batch: WholeBatch = ALONE,
) -> Float[Tensor, "batch"]:
    """Return L_p = -mean_m cos(z_0, z_T^(m)) + xi mean_{i != j} cos(mu_i, mu_j) for each pair (method eq. 6).

    The second mean is over the different Gaussians that ``whole_batch`` selects, of which the rows here may be a part;
    it is 0 where all select the same one.
    """
    samples = mean[:, None] + std[:, None] * noise.float()
    closeness = F.cosine_similarity(z_0.float()[:, None], samples, dim=-1).mean(1)
    separation = _mean_pairwise_cosine(whole_batch.joined(index), whole_batch.joined(mean))
    return separation_weight * separation - closeness


def _mean_pairwise_cosine(index: Int[Tensor, "batch"], mean: Float[Tensor, "batch embed"]) -> Float[Tensor, ""]:
    """Return mean_{i != j} cos(mu_i, mu_j) over the n different Gaussians of the batch.

    Every row counts by one over the number of rows of its Gaussian, so that no list of the different ones is needed,
    whose length a GPU would have to send to the host. With d_i the directions of mu_i:

        (|sum_i d_i|^2 - sum_i |d_i|^2) / (n (n - 1))
    """
    fraction = 1 / (index[:, None] == index).sum(1).to(mean.dtype)  # [batch]; sums to n
    count = fraction.sum().round()
    directions = F.normalize(mean, dim=-1)
    total = (fraction[:, None] * directions).sum(0).square().sum()
    own = (fraction * directions.square().sum(-1)).sum()
    return (total - own) / (count * (count - 1)).clamp_min(1) * (count > 1)
