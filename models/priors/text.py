"""What a prior is told about a caption."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """A batch of captions: CLIP text embeddings, and optionally the states of a language model's encoder.

    ``states`` are padded at the end; ``lengths`` are the true lengths. Whatever stands in the padding has no effect.
    """

    embedding: Float[Tensor, "batch embed"]
    states: Float[Tensor, "batch tokens state"] | None = None
    lengths: Int[Tensor, "batch"] | None = None

    def __post_init__(self) -> None:
        """Refuse states without lengths and lengths without states.

        Raises:
            ValueError: only one of the two is given.
        """
        if (self.states is None) != (self.lengths is None):
            raise ValueError("TextFeatures: states and lengths go together; give both or neither")

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.embedding)

    @property
    def valid(self) -> Bool[Tensor, "batch tokens"] | None:
        """Tell which states belong to the caption and which are padding."""
        if self.states is None or self.lengths is None:
            return None
        return torch.arange(self.states.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> "TextFeatures":
        """Return the same captions on a device."""
        states, lengths = self.states, self.lengths
        return TextFeatures(
            self.embedding.to(device),
            None if states is None else states.to(device),
            None if lengths is None else lengths.to(device),
        )
