"""The spec of the decoder to one color; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.decoders.spec import DecoderSpec, RandomInput
from models.fields import require_positive


@dataclass(frozen=True, kw_only=True)
class FlatColorSpec(DecoderSpec):
    """The mean color of the image that an embedding belongs to."""

    model: ClassVar[str] = "models.decoders.flat_color.model:FlatColorDecoder"
    trained: ClassVar[str] = "models.decoders.flat_color.model:FlatColorLoss"

    kind: Literal["flat_color"] = "flat_color"
    embed_dim: int
    resolution: int
    hidden: int = 16
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        require_positive(self, "embed_dim", "resolution", "hidden")

    def random_inputs(self) -> Mapping[str, RandomInput]:
        """Return none: the loss is deterministic."""
        return {}
