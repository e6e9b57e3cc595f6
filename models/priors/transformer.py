"""The prior's network: a causal decoder-only transformer over a handful of tokens.

Papers: Hierarchical Text-Conditional Image Generation (DALL-E 2, arXiv 2204.06125), section 2.2, for the tokens;
Shifted Diffusion (arXiv 2211.15388), section 3.2, for the Gaussian index among them.

Tokens, in order: [text states ...] [CLIP text embedding] [time] [Gaussian index] [noisy embedding] [query].
The answer is read at the query, which sees all the others. Padded text states are seen by no token but themselves.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.priors.config import TransformerSettings
from models.priors.text import TextFeatures, TextStates

_LONGEST_PERIOD = 10_000.0
_NUM_FIXED_TOKENS = 5  # all but the text states


class PriorTransformer(nn.Module):
    """Predict the clean embedding from the noisy one; in and out are standardised (mean 0, variance about 1)."""

    def __init__(self, settings: TransformerSettings, embed_dim: int) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.text_token = nn.Linear(embed_dim, width)
        self.no_text_token = nn.Parameter(torch.randn(width) * 0.02)
        self.time_token = _NumberEmbedding(width)
        self.gaussian_token = _NumberEmbedding(width)
        self.noisy_token = nn.Linear(embed_dim, width)
        self.query_token = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(_NUM_FIXED_TOKENS, width) * 0.02)
        kinds = settings.text_states
        self.state_tokens = nn.ModuleDict({name: nn.Linear(kind.width, width) for name, kind in kinds.items()})
        self.state_positions = nn.ParameterDict(
            {name: torch.randn(kind.max_length, width) * 0.02 for name, kind in kinds.items()}
        )
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.num_layers))
        self.norm = nn.RMSNorm(width)
        self.answer = nn.Linear(width, embed_dim)
        nn.init.zeros_(self.answer.weight)  # the first prediction is the mean embedding
        nn.init.zeros_(self.answer.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch embed"],
        time: Int[Tensor, "batch"],
        gaussian_index: Int[Tensor, "batch"],
        text: TextFeatures,
        drop_text: Bool[Tensor, "batch"],
    ) -> Float[Tensor, "batch embed"]:
        """Return the standardised prediction of z_0; where ``drop_text`` holds, nothing of the caption is seen."""
        dtype = self.query_token.dtype
        text_token = self.text_token(text.embedding.to(dtype))
        fixed = torch.stack(
            [
                torch.where(drop_text[:, None], self.no_text_token, text_token.to(dtype)),
                self.time_token(time, dtype).to(dtype),
                self.gaussian_token(gaussian_index, dtype).to(dtype),
                self.noisy_token(noisy.to(dtype)).to(dtype),
                self.query_token.expand(len(noisy), -1),
            ],
            dim=1,
        )  # [batch, 5, width]
        tokens = fixed + self.positions
        states, mask = self._text_states(text, drop_text)
        if states is not None:
            tokens = torch.cat([states, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        answer: Tensor = self.answer(self.norm(tokens[:, -1]))
        return answer

    def _text_states(self, text: TextFeatures, drop_text: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the tokens of the text states and the attention mask that they need; none, none without states.

        Raises:
            ValueError: the captions do not bring what the network was built for.
        """
        wanted = {name: kind.width for name, kind in self.settings.text_states.items()}
        given = {name: states.values.shape[-1] for name, states in text.states.items()}
        if given != wanted:
            raise ValueError(
                f"prior: text states have widths {given}, but the network was built for {wanted}: "
                "embed the captions with the text encoders that the prior was trained with"
            )
        if not wanted:
            return None, None
        values = torch.cat([self._projected(name, text.states[name]) for name in wanted], dim=1)
        valid = torch.cat([text.states[name].valid for name in wanted], dim=1)
        visible = F.pad(valid & ~drop_text[:, None], (0, _NUM_FIXED_TOKENS), value=True)  # keys: [batch, tokens]
        size = visible.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=values.device).tril()
        itself = torch.eye(size, dtype=torch.bool, device=values.device)  # no row may be empty: softmax gives NaN
        mask = (causal & visible[:, None, :]) | itself  # [batch, queries, keys]
        # Padding may hold anything, NaN included, and 0 x NaN is NaN: blank it, do not only mask it.
        return torch.where(visible[:, : valid.shape[1], None], values, 0), mask[:, None]

    def _projected(self, name: str, states: TextStates) -> Tensor:
        count, longest = states.values.shape[1], self.settings.text_states[name].max_length
        if count > longest:
            raise ValueError(
                f"prior: captions have up to {count} text states of {name}, but its max_length is {longest}: "
                "cut the captions or raise it"
            )
        projected: Tensor = self.state_tokens[name](states.values.to(self.query_token.dtype))
        positions: Tensor = self.state_positions[name]
        return projected + positions[:count]


class _NumberEmbedding(nn.Module):
    """An integer (time step, Gaussian index) as sines and cosines, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Int[Tensor, "batch"], dtype: torch.dtype) -> Float[Tensor, "batch width"]:
        half = self.width // 2
        exponent = torch.arange(half, device=number.device, dtype=torch.float32) / half
        angle = number.float()[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponent)
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
        embedding: Tensor = self.mlp(waves.to(dtype))
        return embedding


class _Block(nn.Module):
    """Attention and a gated feed-forward layer (SwiGLU, arXiv 2002.05202), each behind an RMS norm."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        width = settings.width
        hidden = int(width * settings.feed_forward_factor)
        self.num_heads = settings.num_heads
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width)
        self.feed_in = nn.Linear(width, 2 * hidden, bias=False)
        self.feed_out = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Float[Tensor, "batch tokens width"], mask: Tensor | None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [batch, heads, tokens, width / heads]
            for part in self.qkv(self.attention_norm(tokens)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        tokens = tokens + self.attention_out(seen.transpose(1, 2).flatten(2))
        gate, value = self.feed_in(self.feed_norm(tokens)).chunk(2, dim=-1)
        fed: Tensor = tokens + self.feed_out(F.silu(gate) * value)
        return fed
