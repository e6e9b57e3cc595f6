"""A codebook that follows the encoder by moving averages.

Papers: van den Oord et al., Neural Discrete Representation Learning (arXiv 1711.00937), section 3.2 and appendix A.1;
dead codes put at encoder outputs as in Dhariwal et al., Jukebox (arXiv 2005.00341), section 3.

Symbols: z = encoder output, one vector per position: [batch, dim, row, column]; e_i = code i: [code, dim];
n_i = positions that chose code i in this batch; g = decay.
    N_i <- g N_i + (1 - g) n_i,   m_i <- g m_i + (1 - g) sum of the z that chose i,   e_i = m_i / N_i   (A.1)
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.autoencoders.spec import CodebookSettings
from models.buffers import ExactBuffers

Latents = Float[Tensor, "batch channel row column"]
Codes = Int[Tensor, "batch row column"]
_FEWEST = 1e-12  # an average of no use at all divides by this; such a code is dead


class Workers(Protocol):
    """Sums and joins over the processes that train together, so that all of them hold one codebook."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of every process's values."""
        ...

    def joined(self, rows: Tensor) -> Tensor:
        """Return every process's rows, one below the other in the order of ranks."""
        ...


class Alone:
    """A single process."""

    def total(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def joined(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows


@dataclass(frozen=True)
class Quantized:
    """What the codebook makes of a batch."""

    latents: Latents
    """The chosen codes, with the gradient passed straight through to z."""
    codes: Codes
    commitment: Float[Tensor, "batch"]
    """Mean of |z - sg(e)|^2, the term that keeps the encoder near its codes (arXiv 1711.00937, eq. 3)."""


class Codebook(ExactBuffers):
    """The codes, as buffers: averages make them, not gradients."""

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, settings: CodebookSettings, dim: int, workers: Workers | None = None) -> None:
        """Start with random codes that count as dead, so that the first batches move them."""
        super().__init__()
        self._decay, self._dead_fraction = settings.code_decay, settings.dead_fraction
        self.workers = workers or Alone()
        codes = torch.randn(settings.num_codes, dim)
        self.register_buffer("codes", codes)
        self.register_buffer("sums", torch.zeros_like(codes))
        self.register_buffer("counts", torch.zeros(settings.num_codes))

    def forward(self, z: Latents, positions: Float[Tensor, "batch"] | None = None) -> Quantized:
        """Choose the nearest code at every position; move the codebook where ``positions`` is given.

        ``positions`` in [0, 1) name one position of each image, at whose z a dead code may be put. They are all the
        randomness there is, and they come from outside, so that training can be repeated.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codes = self.nearest(z)
            chosen = self.lookup(codes)
            if positions is not None:
                self._follow(z.detach(), codes, positions)
        commitment = (z - chosen).square().mean(dim=(1, 2, 3))
        return Quantized(z + (chosen - z).detach(), codes, commitment)

    def nearest(self, z: Latents) -> Codes:
        """Return the index of the code nearest to z, by Euclidean distance."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        # |z - e|^2 less |z|^2, which is the same for all codes: [position, code]
        distance = torch.addmm(self.codes.square().sum(1), flat, self.codes.T, alpha=-2)
        nearest: Tensor = distance.argmin(1).view(z.shape[0], *z.shape[2:])
        return nearest

    def lookup(self, codes: Codes) -> Latents:
        """Return the codes' vectors."""
        return F.embedding(codes, self.codes).permute(0, 3, 1, 2)

    @property
    def perplexity(self) -> Float[Tensor, ""]:
        """Return exp of the entropy of the averaged use: how many codes are in use, as if all of those alike."""
        fraction = self.counts / self.counts.sum().clamp_min(_FEWEST)
        perplexity: Tensor = torch.special.entr(fraction).sum().exp()
        return perplexity

    @torch.no_grad()
    def _follow(self, z: Latents, codes: Codes, positions: Float[Tensor, "batch"]) -> None:
        """Take the step of A.1, then put dead codes at the z named by ``positions``, one each while they last."""
        flat, chosen = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), codes.flatten()
        hits = torch.zeros_like(self.counts).index_add_(0, chosen, torch.ones_like(flat[:, 0]))
        found = torch.zeros_like(self.sums).index_add_(0, chosen, flat)
        self.counts.lerp_(self.workers.total(hits), 1 - self._decay)
        self.sums.lerp_(self.workers.total(found), 1 - self._decay)
        self._revive(self._candidates(z, positions))
        self.codes.copy_(self.sums / self.counts.clamp_min(_FEWEST)[:, None])

    def _candidates(self, z: Latents, positions: Float[Tensor, "batch"]) -> Float[Tensor, "rows dim"]:
        vectors = z.flatten(2)
        index = (positions * vectors.shape[2]).long().clamp_max(vectors.shape[2] - 1)
        named = vectors[torch.arange(len(z), device=z.device), :, index].contiguous()
        return self.workers.joined(named)

    def _revive(self, candidates: Float[Tensor, "rows dim"]) -> None:
        """Put the first dead codes at the candidates, with the mean use, so that they have time to be found."""
        mean = self.counts.mean()
        dead = self.counts < self._dead_fraction * mean
        number = dead.cumsum(0) - 1  # of a dead code among the dead: [code]
        revived = dead & (number < len(candidates))
        at = candidates[number.clamp(0, len(candidates) - 1)]
        self.sums.copy_(torch.where(revived[:, None], at * mean, self.sums))
        self.counts.copy_(torch.where(revived, mean, self.counts))
