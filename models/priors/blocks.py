"""A causal decoder-only transformer, the body of every network of the priors.

Papers: RMS norm (arXiv 1910.07467) before each part; gated feed-forward SwiGLU (arXiv 2002.05202);
queries and keys normalised before they meet, optionally (arXiv 2302.05442).

Whoever reads only the last tokens says so by ``num_outputs``: the last layer then works on those alone, which is
exact, because nothing after it looks at the others.

The key/value cache is ours: it writes into room allocated once, and a step that is not kept leaves no trace, where
transformers' DynamicCache copies all keys and values at every step and has to be cropped afterwards (72 against 4 ms a
step, on the CPU, with 64 captions of 81 tokens and 12 layers of width 768).
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.priors.spec import TransformerSpec

Tokens = Float[Tensor, "batch tokens width"]
Visible = Bool[Tensor, "batch tokens"]


class KeyValueCache:
    """Keys and values of the tokens read so far, in every layer, with room for those to come.

    Tokens at and after ``length`` are free and may be overwritten: a reader that does not call :meth:`keep` leaves
    no trace, so that one prefix serves any number of continuations without being copied.
    """

    def __init__(self, spec: TransformerSpec, batch: int, capacity: int, like: Tensor) -> None:
        """Make an empty cache of ``like``'s dtype and device for ``batch`` rows of at most ``capacity`` tokens."""
        heads, head_width = spec.num_heads, spec.width // spec.num_heads
        shape = (spec.num_layers, 2, batch, heads, capacity, head_width)
        self.states = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.visible: Bool[Tensor, "batch capacity"] | None = None  # none: every token is seen
        self.length = 0

    @property
    def capacity(self) -> int:
        """Return how many tokens fit."""
        return self.states.shape[4]

    @property
    def num_rows(self) -> int:
        """Return how many rows (captions) there are."""
        return self.states.shape[2]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values behind the kept ones and return both together: [batch, heads, length + new, ...]."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"key and value cache: {end} tokens were to be read, but there is room for {self.capacity}: make the "
                "cache with a larger capacity"
            )
        states = self.states[layer, :, :, :, :end]
        states[0, :, :, self.length :] = keys
        states[1, :, :, self.length :] = values
        return states[0], states[1]

    def see(self, visible: Visible | None, new: int) -> Visible | None:
        """Return which of the kept and the new tokens are seen, given which of the new ones are."""
        if self.visible is None and visible is None:
            return None
        if self.visible is None:
            self.visible = torch.ones(self.num_rows, self.capacity, dtype=torch.bool, device=self.states.device)
        end = self.length + new
        self.visible[:, self.length : end] = True if visible is None else visible
        return self.visible[:, :end]

    def keep(self, tokens: int) -> None:
        """Keep the tokens written last."""
        self.length += tokens

    def joined_with(self, row: "KeyValueCache", times: int) -> "KeyValueCache":
        """Return a cache of these rows and, below them, the single row of a cache that is no longer, repeated.

        Its tokens come last, as in :attr:`length`; the positions before them are seen by none.
        """
        gap = self.length - row.length
        room = (0, 0, gap, self.capacity - self.length)
        joined = copy.copy(self)
        lower = F.pad(row.states[:, :, :, :, : row.length], room).expand(-1, -1, times, -1, -1, -1)
        joined.states = torch.cat([self.states, lower], dim=2)
        if gap or self.visible is not None or row.visible is not None:
            seen = torch.ones(1, self.capacity, dtype=torch.bool, device=self.states.device)
            upper = seen.expand(self.num_rows, -1) if self.visible is None else self.visible
            kept = seen[:, : row.length] if row.visible is None else row.visible[:, : row.length]
            joined.visible = torch.cat([upper, F.pad(kept, room[2:]).expand(times, -1)])
        return joined


class CausalTransformer(nn.Module):
    """Pre-norm blocks and a last norm; every token sees itself and the visible tokens before it."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.norm = nn.RMSNorm(spec.width)

    def forward(
        self,
        tokens: Tokens,
        visible: Visible | None = None,
        cache: KeyValueCache | None = None,
        num_outputs: int | None = None,
    ) -> Float[Tensor, "batch outputs width"]:
        """Return the last ``num_outputs`` tokens (none: all) behind the last norm.

        A token that is not ``visible`` (padding) is seen by none but itself; it must hold finite numbers. With a
        cache, the tokens come after the kept ones and are kept in turn if the caller says so. Gradient checkpointing
        is on in training only, and never with a cache.
        """
        count = tokens.shape[1]
        outputs = count if num_outputs is None else num_outputs
        keys_seen = visible if cache is None else cache.see(visible, count)
        num_keys = count if cache is None else cache.length + count
        mask = attention_mask(count, num_keys, keys_seen, tokens.device)
        last_mask = mask if outputs == count else attention_mask(outputs, num_keys, keys_seen, tokens.device)
        recompute = self.spec.gradient_checkpointing and self.training and cache is None
        for layer, block in enumerate(self.blocks):
            last = layer == len(self.blocks) - 1
            read = (outputs, last_mask) if last else (count, mask)
            if recompute:  # there is no randomness inside a block to bring back
                tokens = checkpoint(block, tokens, *read, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, *read, None if cache is None else (cache, layer))
        normed: Tensor = self.norm(tokens)
        return normed


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each behind an RMS norm and added to what came in."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        width = spec.width
        hidden = int(width * spec.feed_forward_factor)
        self.num_heads = spec.num_heads
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm: nn.Module = nn.RMSNorm(width // self.num_heads) if spec.qk_norm else nn.Identity()
        self.key_norm: nn.Module = nn.RMSNorm(width // self.num_heads) if spec.qk_norm else nn.Identity()
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width)
        self.feed_in = nn.Linear(width, 2 * hidden, bias=False)
        self.feed_out = nn.Linear(hidden, width, bias=False)

    def forward(
        self, tokens: Tokens, outputs: int, mask: Tensor | None, slot: tuple[KeyValueCache, int] | None = None
    ) -> Tokens:
        """Return the last ``outputs`` tokens; ``slot`` is the cache and the layer's number in it."""
        qkv = self.qkv(self.attention_norm(tokens)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [batch, heads, tokens, width / heads]
        k = self.key_norm(k)
        if slot is not None:
            cache, layer = slot
            k, v = cache.write(layer, k, v)
        first = tokens.shape[1] - outputs
        tokens, q = tokens[:, first:], self.query_norm(q[:, :, first:])
        if outputs == 0:
            return tokens
        # A lone token sees all keys; is_causal would line it up with the first of them.
        is_causal = mask is None and outputs > 1
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
        tokens = tokens + self.attention_out(seen.transpose(1, 2).flatten(2))
        gate, value = self.feed_in(self.feed_norm(tokens)).chunk(2, dim=-1)
        fed: Tensor = tokens + self.feed_out(F.silu(gate) * value)
        return fed


def attention_mask(
    num_queries: int, num_keys: int, visible: Bool[Tensor, "batch keys"] | None, device: torch.device
) -> Bool[Tensor, "... queries keys"] | None:
    """Return what the last ``num_queries`` of ``num_keys`` tokens may see, or none where no mask is needed.

    None is needed where all keys are visible and the queries are as many as the keys (plain causal attention, for
    which fused kernels are faster), or a single one.
    """
    if visible is None and num_queries in (0, 1, num_keys):
        return None
    first = num_keys - num_queries
    causal = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(first)
    if visible is None:
        return causal
    # Every token sees itself, also padding: with nothing to see, softmax gives NaN.
    itself = torch.eye(num_keys, dtype=torch.bool, device=device)[first:]
    return ((causal & visible[:, None, :]) | itself)[:, None]
