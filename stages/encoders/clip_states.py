"""The token states of open_clip's text towers: the output of the final layer norm for each token."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from stages.contract.errors import InputFault

_BY_PADDING = ("first", "last")  # poolings
_PROBE = ("A photo of 2 dogs, one in the snow.",)  # tokenizers with the same tokens for this are taken to be the same


class TextTower:
    """The text tower of an open_clip model."""

    def __init__(self, model: Any, tokenizer: Any, *, where: str) -> None:
        tower = getattr(model, "text", model)  # a module of its own, or parts of the model
        self.where, self._tokenizer = where, tokenizer
        self._pooling = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
        self._end: Any = getattr(tower, "eos_id", getattr(tower, "text_eos_id", None))
        self._norm: Any = getattr(tower, "ln_final", None)
        self._padding: Any = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None)
        known = self._pooling in ("argmax", "eos") or (self._pooling in _BY_PADDING and self._padding is not None)
        if self._norm is None or not known or getattr(tower, "cls_emb", None) is not None:
            raise InputFault(
                f"text_states.clip: {where} has a text tower {type(tower).__name__} with pooling {self._pooling!r}: "
                "allowed are open_clip's own transformers that read a text at its end token (argmax or eos), or at the "
                "first or last position (as SigLIP does) with a tokenizer that names its padding: leave "
                "text_states.clip out, or use another CLIP"
            )

    @property
    def width(self) -> int:
        """Width of a state."""
        return int(self._norm.weight.shape[0])

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Return the tokens of the texts, padded to the tower's context length."""
        tokens: Tensor = self._tokenizer(list(texts))
        return tokens

    def lengths(self, tokens: Int[Tensor, "batch tokens"]) -> list[int]:
        """Return the number of tokens of each text, its end token included; one at least.

        A tower that reads a text at the first or last position tells by the padding where it ends. SigLIP's sees its
        padding, as it was trained; an end token that is the padding token, too, counts as padding.
        """
        if self._pooling in _BY_PADDING:
            kept = tokens != self._padding
            numbers = torch.arange(1, tokens.shape[1] + 1) * kept
            return [max(1, int(length)) for length in numbers.amax(dim=-1)]
        ends = tokens if self._pooling == "argmax" else torch.eq(tokens, self._end).int()
        return [int(end) + 1 for end in ends.argmax(dim=-1)]

    @contextlib.contextmanager
    def keeping_states(self) -> Iterator[list[Tensor]]:
        """Yield the list of the states of each batch encoded meanwhile: float32 [batch, tokens, width]."""
        kept: list[Tensor] = []
        hook = self._norm.register_forward_hook(lambda module, inputs, output: kept.append(output.float().cpu()))
        try:
            yield kept
        finally:
            hook.remove()


def require_one_tokenizer(towers: Sequence[TextTower]) -> int:
    """Return the width of the towers' concatenated states."""
    common_lengths(towers, _PROBE)
    return sum(tower.width for tower in towers)


def common_lengths(towers: Sequence[TextTower], texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text."""
    first, *others = [tower.tokens(texts) for tower in towers]
    for tower, tokens in zip(towers[1:], others, strict=True):
        if not torch.equal(tokens, first):
            raise InputFault(
                f"text_states.clip: {towers[0].where} and {tower.where} have different tokens for the same texts "
                f"(context lengths {first.shape[1]} and {tokens.shape[1]}): allowed are models with one tokenizer: "
                "configure such models, or leave text_states.clip out"
            )
    return towers[0].lengths(first)
