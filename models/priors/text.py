"""What a prior knows of a caption."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TextStates:
    """Token states of a text encoder, padded at the end; whatever stands in the padding has no effect."""

    values: Float[Tensor, "batch tokens width"]
    lengths: Int[Tensor, "batch"]  # true numbers of tokens

    @property
    def valid(self) -> Bool[Tensor, "batch tokens"]:
        """Return which states belong to the caption and which are padding."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> "TextStates":
        """Return the same states on a device."""
        return TextStates(self.values.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class TextFeatures:
    """A batch of captions: CLIP text embeddings, and optionally the token states of encoders, by name (t5, clip)."""

    embedding: Float[Tensor, "batch text"]
    states: Mapping[str, TextStates] = field(default_factory=dict)
    image: Float[Tensor, "batch embed"] | None = None
    """Of captions that are left out, where no text embedding can stand for an image's: the images' own."""

    def __post_init__(self) -> None:
        for name, states in self.states.items():
            if not len(states.values) == len(states.lengths) == len(self.embedding):
                raise ValueError(
                    f"TextFeatures: {len(self.embedding)} text embeddings, but {len(states.values)} states and "
                    f"{len(states.lengths)} lengths of {name}: give one of each for every caption"
                )

    def __len__(self) -> int:
        return len(self.embedding)

    @classmethod
    def missing(
        cls, stand_in: Float[Tensor, "batch embed"], widths: Mapping[str, int], *, text_dim: int | None = None
    ) -> "TextFeatures":
        """Return captions that are to be left out, with token states of no length; ``widths`` are those of the states.

        ``stand_in`` is what a process takes for the text embedding: an image's own chooses the Gaussian it belongs to.
        With ``text_dim``, the width of text embeddings of another space, it stands beside one of zeros.
        """
        count, device = len(stand_in), stand_in.device
        lengths = torch.zeros(count, dtype=torch.int64, device=device)
        states = {
            name: TextStates(torch.zeros(count, 0, width, device=device), lengths) for name, width in widths.items()
        }
        if text_dim is None:
            return cls(stand_in, states)
        return cls(torch.zeros(count, text_dim, device=device), states, stand_in)

    def to(self, device: torch.device | str) -> "TextFeatures":
        """Return the same captions on a device."""
        states = {name: states.to(device) for name, states in self.states.items()}
        return TextFeatures(self.embedding.to(device), states, None if self.image is None else self.image.to(device))
