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

from models.whole_batch import ALONE, WholeBatch

_FORBIDDEN = -1.0e4


class ContrastiveClip(nn.Module):
    """An open_clip model that returns the loss of a batch of pairs.

    The negatives of a pair are the other pairs of the whole batch, on whatever worker they are.
    """

    def __init__(
        self, clip: nn.Module, *, max_logit_scale: float, label_smoothing: float = 0.0, whole_batch: WholeBatch = ALONE
    ) -> None:
        super().__init__()
        self.clip: Any = clip
        self._max_log_scale = math.log(max_logit_scale)
        self._label_smoothing = label_smoothing
        self._whole_batch = whole_batch

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " count"]]:
        """Return loss and accuracy of each pair (pixels, tokens); in training, every worker must call it."""
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        z_image = F.normalize(self.clip.encode_image(pixels).float(), dim=-1)
        z_text = F.normalize(self.clip.encode_text(batch["tokens"]).float(), dim=-1)
        scale = self.clip.logit_scale.float().clamp(max=self._max_log_scale).exp()
        return contrastive_loss(
            z_image, z_text, batch["tokens"], scale, label_smoothing=self._label_smoothing,
            whole_batch=self._whole_batch if self.training else ALONE,
        )  # fmt: skip


def contrastive_loss(
    z_image: Float[Tensor, "count embed"],
    z_text: Float[Tensor, "count embed"],
    tokens: Int[Tensor, "count context"],
    scale: Float[Tensor, "..."],
    *,
    label_smoothing: float = 0.0,
    whole_batch: WholeBatch = ALONE,
) -> dict[str, Float[Tensor, " count"]]:
    """Return the symmetric cross entropy of each pair; pairs of the same caption are not each other's negatives.

    loss_i = (CE(s z_i . t, i) + CE(s t_i . z, i)) / 2   (section 2.3, figure 3), over all pairs of the whole batch

    With label smoothing e (Szegedy et al., arXiv 1512.00567, section 7), CE has 1 - e of its target at the pair itself
    and e spread evenly over the pair and its negatives. Computed in float32: s is 100 at most, and a cosine in bf16 is
    wrong in its third digit.
    """
    own = whole_batch.own(len(tokens))
    with torch.autocast(z_image.device.type, enabled=False):
        all_images, all_texts = whole_batch.joined(torch.cat([z_image, z_text], dim=1).float()).chunk(2, dim=1)
        captions = _caption_hashes(whole_batch.joined(tokens))
        positions = torch.arange(len(captions), device=captions.device)
        right = positions[own]
        same = (captions[own, None] == captions) & (right[:, None] != positions)  # [count, batch]
        by_image, by_text = (
            (scale * rows.float() @ others.T).masked_fill(same, _FORBIDDEN)
            for rows, others in ((z_image, all_texts), (z_text, all_images))
        )
        errors = [_cross_entropy(logits, own.start, same, label_smoothing) for logits in (by_image, by_text)]
    return {"loss": (errors[0] + errors[1]) / 2, "accuracy": (by_image.argmax(dim=1) == right).float()}


def _caption_hashes(tokens: Int[Tensor, "batch context"]) -> Int[Tensor, " batch"]:
    """Return 64 bits for each caption; for its number among the different ones, the host would wait for the GPU."""
    generator = torch.Generator(device=tokens.device).manual_seed(0)
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    factors = torch.randint(low, high, (tokens.shape[1],), generator=generator, device=tokens.device)
    return (tokens.long() * factors).sum(dim=1)


def _cross_entropy(
    logits: Float[Tensor, "count batch"], first: int, masked: Bool[Tensor, "count batch"], label_smoothing: float
) -> Float[Tensor, " count"]:
    """Return the cross entropy of each row i to its own column, ``first`` + i.

    What is masked gets no share of the smoothing.
    """
    log_p = F.log_softmax(logits, dim=1)
    error = -log_p.diagonal(first)
    if label_smoothing == 0.0:
        return error
    spread = -log_p.masked_fill(masked, 0).sum(dim=1) / (~masked).sum(dim=1)
    return (1 - label_smoothing) * error + label_smoothing * spread
