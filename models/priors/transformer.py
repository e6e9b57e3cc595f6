"""The diffusion prior's network: a causal decoder-only transformer over a handful of tokens.

Papers: Hierarchical Text-Conditional Image Generation (DALL-E 2, arXiv 2204.06125), section 2.2, for the tokens;
Shifted Diffusion (arXiv 2211.15388), section 3.2, for the Gaussian index among them.

Tokens, in order: [T5 states] [CLIP token states] [CLIP text embedding] [time] [Gaussian index] [noisy embedding]
[query]. The output is read at the query, which sees all the others. Padded states are seen by no other token.
The text tokens come first and see nothing of the rest, so their keys and values serve every step of sampling.
"""

import math

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn
from torch.nn import functional as F

from models.priors.blocks import CausalTransformer, KeyValueCache, Visible
from models.priors.spec import TransformerSpec
from models.priors.text import TextFeatures, TextStates

_LONGEST_PERIOD = 10_000.0
_INIT_STD = 0.02
_NUM_STEP_TOKENS = 4  # time, Gaussian index, noisy embedding, query


class PriorTransformer(nn.Module):
    """Predict the clean embedding from the noisy one; in and out are standardised (mean 0, variance about 1).

    In sampling, read the captions once and ask at every step::

        prefix = network.prefix(text, drop_text)  # or network.guided_prefix(text, drop_text)
        output = network.predict(prefix, noisy, time, gaussian_index)

    which is ``network(noisy, time, gaussian_index, text, drop_text)`` up to rounding.
    """

    def __init__(
        self, spec: TransformerSpec, embed_dim: int, *, text_dim: int | None = None, captions_added: bool = False
    ) -> None:
        """Build it for image embeddings of that width, and text embeddings of ``text_dim``; None: of the same."""
        super().__init__()
        width = spec.width
        self.spec = spec
        self.text_tokens = TextTokens(spec, text_dim or embed_dim, captions_added=captions_added)
        self.time_token = _NumberEmbedding(width)
        self.gaussian_token = _NumberEmbedding(width)
        self.noisy_token = nn.Linear(embed_dim, width)
        self.query_token = nn.Parameter(torch.randn(width) * _INIT_STD)
        self.positions = nn.Parameter(torch.randn(_NUM_STEP_TOKENS, width) * _INIT_STD)
        self.body = CausalTransformer(spec)
        self.answer = nn.Linear(width, embed_dim)
        nn.init.zeros_(self.answer.weight)  # the first prediction is the mean embedding
        nn.init.zeros_(self.answer.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch embed"],
        time: Real[Tensor, "batch"],
        gaussian_index: Int[Tensor, "batch"],
        text: TextFeatures,
        drop_text: Bool[Tensor, "batch"],
    ) -> Float[Tensor, "batch embed"]:
        """Return the standardised prediction of z_0; where ``drop_text`` holds, nothing of the caption is seen."""
        text_tokens, visible = self.text_tokens(text, drop_text)
        tokens = torch.cat([text_tokens, self._step_tokens(noisy, time, gaussian_index)], dim=1)
        if visible is not None:
            visible = F.pad(visible, (0, _NUM_STEP_TOKENS), value=True)
        output: Tensor = self.answer(self.body(tokens, visible, num_outputs=1)[:, 0])
        return output

    @torch.no_grad()
    def prefix(self, text: TextFeatures, drop_text: Bool[Tensor, "batch"]) -> KeyValueCache:
        """Read the captions, as :meth:`forward` would, for any number of calls of :meth:`predict`."""
        tokens, visible = self.text_tokens(text, drop_text)
        count = tokens.shape[1]
        cache = KeyValueCache(self.spec, len(text), count + _NUM_STEP_TOKENS, tokens)
        self.body(tokens, visible, cache, num_outputs=0)
        cache.keep(count)
        return cache

    @torch.no_grad()
    def guided_prefix(self, text: TextFeatures, drop_text: Bool[Tensor, "batch"]) -> KeyValueCache:
        """Read the captions for classifier-free guidance: 2 x batch rows, the captions', then the empty captions'.

        The rows without a caption are all alike, so they are computed once. :meth:`predict` then wants its other
        inputs twice, one after the other (``noisy.repeat(2, 1)``), and gives both outputs likewise.
        """
        unconditional = self.prefix(first_caption(text), torch.ones_like(drop_text[:1]))
        return self.prefix(text, drop_text).joined_with(unconditional, len(text))

    @torch.no_grad()
    def predict(
        self,
        prefix: KeyValueCache,
        noisy: Float[Tensor, "batch embed"],
        time: Real[Tensor, "batch"],
        gaussian_index: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch embed"]:
        """Return the standardised prediction of z_0 for captions read before; the prefix is left as it was."""
        tokens = self._step_tokens(noisy, time, gaussian_index)
        output: Tensor = self.answer(self.body(tokens, cache=prefix, num_outputs=1)[:, 0])
        return output

    def _step_tokens(self, noisy: Tensor, time: Tensor, gaussian_index: Tensor) -> Tensor:
        """Return all tokens that are not text: [batch, 4, width]."""
        dtype = self.query_token.dtype
        tokens = torch.stack(
            [
                self.time_token(time, dtype).to(dtype),
                self.gaussian_token(gaussian_index, dtype).to(dtype),
                self.noisy_token(noisy.to(dtype)).to(dtype),
                self.query_token.expand(len(noisy), -1),
            ],
            dim=1,
        )
        return tokens + self.positions


class TextTokens(nn.Module):
    """A caption as tokens: the states of its encoders, in the settings' order, then its CLIP text embedding.

    With ``captions_added`` what a caption says is added to the token of no caption, and is nothing at first: a network
    that has learned without captions begins with them as it was (but for token states, which attention cannot pass by).
    """

    def __init__(self, spec: TransformerSpec, text_dim: int, *, captions_added: bool = False) -> None:
        super().__init__()
        width, kinds = spec.width, spec.text_states
        self.spec = spec
        self.captions_added = captions_added
        self.embedding = nn.Linear(text_dim, width)
        if captions_added:
            nn.init.zeros_(self.embedding.weight)
            nn.init.zeros_(self.embedding.bias)
        self.no_text = nn.Parameter(torch.randn(width) * _INIT_STD)
        self.position = nn.Parameter(torch.randn(width) * _INIT_STD)
        self.states = nn.ModuleDict({name: nn.Linear(kind.width, width) for name, kind in kinds.items()})
        self.state_positions = nn.ParameterDict(
            {name: torch.randn(kind.max_length, width) * _INIT_STD for name, kind in kinds.items()}
        )

    def forward(
        self, text: TextFeatures, drop_text: Bool[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Visible | None]:
        """Return the tokens and which of them are seen (none: all); a dropped caption becomes one token, the same."""
        self._require_states(text)
        states = {name: _trimmed(text.states[name], drop_text) for name in self.spec.text_states}
        embedded = self.embedding(text.embedding.to(self.no_text.dtype)).to(self.no_text.dtype)
        embedded = self.no_text + embedded if self.captions_added else embedded
        token = torch.where(drop_text[:, None], self.no_text, embedded) + self.position
        tokens = torch.cat([*(self._tokens_of(*part) for part in states.items()), token[:, None]], dim=1)
        if not states:
            return tokens, None
        valid = torch.cat([part.valid for part in states.values()], dim=1)
        visible = F.pad(valid & ~drop_text[:, None], (0, 1), value=True)
        # Attention without a mask is faster, but to read values makes a GPU wait for the host.
        if _may_read(visible) and bool(visible.all()):
            return tokens, None
        return tokens, visible

    def _tokens_of(self, name: str, states: TextStates) -> Tensor:
        # Padding may hold anything, NaN included, and 0 x NaN is NaN: blank it, do not only hide it.
        values = torch.where(states.valid[:, :, None], states.values, 0).to(self.no_text.dtype)
        projected, positions = self.states[name](values), self.state_positions[name]
        tokens: Tensor = projected.to(values.dtype) + positions[: values.shape[1]]
        return tokens

    def _require_states(self, text: TextFeatures) -> None:
        wanted = {name: kind.width for name, kind in self.spec.text_states.items()}
        given = {name: states.values.shape[-1] for name, states in text.states.items()}
        if given != wanted:
            raise ValueError(
                f"prior: text states have widths {given}, but the network was built for {wanted}: "
                "embed the captions with the text encoders that the prior was trained with"
            )
        for name, kind in self.spec.text_states.items():
            count = text.states[name].values.shape[1]
            if count > kind.max_length:
                raise ValueError(
                    f"prior: captions have up to {count} text states of {name}, but its max_length is "
                    f"{kind.max_length}: cut the captions or raise it"
                )


def first_caption(text: TextFeatures) -> TextFeatures:
    """Return the first caption alone: enough where captions are dropped, since all rows are then alike."""
    states = {name: TextStates(part.values[:1], part.lengths[:1]) for name, part in text.states.items()}
    return TextFeatures(text.embedding[:1], states)


def _trimmed(states: TextStates, drop_text: Bool[Tensor, "batch"]) -> TextStates:
    """Leave out the positions that are padding in every caption, where it costs nothing to look.

    Elsewhere only those are left that padding to the longest caption of the batch has brought.
    """
    if not _may_read(drop_text) or len(drop_text) == 0:
        return states
    longest = int(torch.where(drop_text, 0, states.lengths).max())
    return TextStates(states.values[:, :longest], states.lengths)


def _may_read(values: Tensor) -> bool:
    """Return whether Python may branch on values: a GPU would wait, and a compiled network has to keep its shapes."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


class _NumberEmbedding(nn.Module):
    """A number (time, Gaussian index) as sines and cosines, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Real[Tensor, "batch"], dtype: torch.dtype) -> Float[Tensor, "batch width"]:
        half = self.width // 2
        exponent = torch.arange(half, device=number.device, dtype=torch.float32) / half
        angle = number.float()[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponent)
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
        embedding: Tensor = self.mlp(waves.to(dtype))
        return embedding
