"""How embeddings are retrieved, and of what size the index is, as plain data: it imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from models.fields import ABSENT, Spec, require, require_positive

Query = Literal["embedding", "embedding_and_text"]


@dataclass(frozen=True)
class RetrievalSampling:
    """How far the embeddings of captions are moved towards the nearest that the decoder has learned from."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}

    weight: float | None = field(default=None, metadata=ABSENT)
    """1: the nearest itself; 0.5: half of both; none: as it is."""
    query: Query | None = field(default=None, metadata=ABSENT)
    """What is nearest: to the embedding alone, or to it and the caption's text embedding; none: to it alone."""

    def __post_init__(self) -> None:
        require(self, "weight", self.weight is None or 0.0 <= self.weight <= 1.0, "0 to 1, or none")
        names = get_args(Query)
        require(self, "query", self.query in (None, *names), f"{' or '.join(names)}, or none")


@dataclass(frozen=True)
class IndexSpec(Spec):
    """Shape of the index."""

    model: ClassVar[str] = "models.retrieval.model:EmbeddingIndex"

    num_embeddings: int
    embed_dim: int
    storage: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        require_positive(self, "num_embeddings", "embed_dim")
        require(self, "storage", self.storage in ("float16", "float32"), "float16 or float32")
