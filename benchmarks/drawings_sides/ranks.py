"""Where the true drawing stands among all, by cosine of features."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_TIE = 1e-6


def ranks_of(found: Tensor, gallery: Tensor, rows: Sequence[int]) -> Tensor:
    """Return the rank (1 = best) of row ``rows[i]`` of the gallery for each image i; [images, dim], [drawings, dim].

    Features are centred about the gallery's mean, which all drawings share. Ties take the last of their ranks, so that
    equal images score nothing.
    """
    centre = gallery.mean(0)
    scores = F.normalize(found - centre, dim=-1) @ F.normalize(gallery - centre, dim=-1).T
    true = scores.gather(1, torch.tensor(rows)[:, None])
    return (scores >= true - _TIE).sum(1)


def figures_of(ranks: Tensor) -> dict[str, float]:
    """Return R@1, R@5, R@10 and the median rank."""
    recalls = {f"R@{k}": float((ranks <= k).double().mean()) for k in (1, 5, 10)}
    return recalls | {"median rank": float(ranks.double().quantile(0.5))}
