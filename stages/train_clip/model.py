"""The contrastive model: an open_clip model and its loss.

Paper: Learning Transferable Visual Models From Natural Language Supervision (Radford et al. 2021), section 2.3.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_FORBIDDEN = -1.0e4


class ContrastiveClip(nn.Module):
    """An open_clip model that returns the loss of a batch of pairs.

    The negatives of a pair are the other pairs of the same forward pass on the same worker.
    """

    def __init__(self, clip: nn.Module, *, max_logit_scale: float, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.clip: Any = clip
        self._max_log_scale = math.log(max_logit_scale)
        self._label_smoothing = label_smoothing

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " count"]]:
        """Return loss and accuracy of each pair (pixels, tokens)."""
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        z_image = F.normalize(self.clip.encode_image(pixels).float(), dim=-1)
        z_text = F.normalize(self.clip.encode_text(batch["tokens"]).float(), dim=-1)
        scale = self.clip.logit_scale.float().clamp(max=self._max_log_scale).exp()
        return contrastive_loss(z_image, z_text, batch["tokens"], scale, label_smoothing=self._label_smoothing)


def contrastive_loss(
    z_image: Float[Tensor, "count embed"],
    z_text: Float[Tensor, "count embed"],
    tokens: Int[Tensor, "count context"],
    scale: Float[Tensor, ""],
    *,
    label_smoothing: float = 0.0,
) -> dict[str, Float[Tensor, " count"]]:
    """Return the symmetric cross entropy of each pair; pairs of the same caption are not each other's negatives.

    loss_i = (CE(s z_i . t, i) + CE(s t_i . z, i)) / 2   (section 2.3, figure 3)

    With label smoothing e (Szegedy et al., arXiv 1512.00567, section 7), CE has 1 - e of its target at the pair itself
    and e spread evenly over the pair and its negatives.
    """
    logits = scale * z_image @ z_text.T  # [image, text]
    same = (tokens[:, None] == tokens[None]).all(dim=-1)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, _FORBIDDEN)
    right = torch.arange(len(logits), device=logits.device)
    by_image = _cross_entropy(logits, same, label_smoothing)
    by_text = _cross_entropy(logits.T, same, label_smoothing)
    return {"loss": (by_image + by_text) / 2, "accuracy": (logits.argmax(dim=1) == right).float()}


def _cross_entropy(
    logits: Float[Tensor, "count count"], masked: Bool[Tensor, "count count"], label_smoothing: float
) -> Float[Tensor, " count"]:
    """Return each row's cross entropy to its own column; what is masked gets no share of the smoothing."""
    log_p = F.log_softmax(logits, dim=1)
    error = -log_p.diagonal()
    if label_smoothing == 0.0:
        return error
    spread = -log_p.masked_fill(masked, 0).sum(dim=1) / (~masked).sum(dim=1)
    return (1 - label_smoothing) * error + label_smoothing * spread
