"""What both sides of ``benchmarks.prior`` are given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.sides.serving import SideCase

NUM_TIMESTEPS = 1000
TEXT_DROPOUT = 0.1
SHORTEST, LONGEST = 8, 32  # tokens of the shorter captions, sampled uniformly


@dataclass(frozen=True, kw_only=True)
class Case(SideCase):
    """One comparison: both networks have this size and both read these captions."""

    width: int  # of tokens and embeddings alike, because dalle2-pytorch knows only one
    num_layers: int
    num_heads: int
    text_tokens: int
    batch: int  # pairs of a training step
    captions: int  # of one sampling
    num_steps: int
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision as torch names it."""
        found: torch.dtype = getattr(torch, self.precision)
        return found

    def embeddings(self, rows: int) -> Tensor:
        """Return embeddings of images or captions: [rows, width]."""
        return torch.randn(rows, self.width, device=self.device, dtype=self.dtype)

    def states(self, rows: int, lengths: Tensor) -> Tensor:
        """Return token states with zeros in the padding: [rows, text_tokens, width]."""
        values = torch.randn(rows, self.text_tokens, self.width, device=self.device, dtype=self.dtype)
        valid = torch.arange(self.text_tokens, device=self.device) < lengths[:, None]
        return torch.where(valid[:, :, None], values, 0)

    def lengths(self, rows: int, *, short: bool) -> Tensor:
        """Return the captions' true lengths: all the longest, or uniform between 8 and 32."""
        if not short:
            return torch.full((rows,), self.text_tokens, device=self.device)
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(SHORTEST, min(LONGEST, self.text_tokens) + 1, (rows,), generator=generator)
        return lengths.to(self.device)
