"""The spec of the autoregressive prior; no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from models.fields import require
from models.priors.spec import PriorSpec, TransformerSpec, require_one_space


@dataclass(frozen=True)
class AutoregressivePriorSpec(PriorSpec):
    """DALL-E 2's other prior: principal components of the embedding, quantised, predicted one by one."""

    model: ClassVar[str] = "models.priors.autoregressive.model:AutoregressivePrior"
    sampling: ClassVar[Literal["steps", "guidance", "one_step", "fixed"]] = "guidance"

    num_components: int
    """Principal components that are kept; DALL-E 2: 319 of 1024; fewer than the training pairs, and no more than the
    dimensions of an embedding."""
    network: TransformerSpec = field(default_factory=TransformerSpec)
    num_buckets: int = 1024
    """Values that a component can take; DALL-E 2: 1024."""
    kind: Literal["autoregressive"] = field(default="autoregressive", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 1 <= self.num_components <= self.embed_dim
        require(self, "num_components", fits, f"1 to {self.embed_dim}, the width of the embeddings: lower it")
        require(self, "num_buckets", self.num_buckets >= 2, "2 or more")
        require_one_space(self, "kind", False, "shifted, gaussian, flow or projection")

    @classmethod
    def learns_from_images(cls, section: Any) -> bool:
        """It can: the similarity is hidden with the caption."""
        return True

    @property
    def num_sampling_steps(self) -> int:
        """One for each component."""
        return self.num_components

    def require_pairs(self, count: int, embed_dim: int) -> None:
        """Refuse pairs that span fewer directions than there are components."""
        most = min(count - 1, embed_dim)
        if self.num_components > most:
            raise ValueError(
                f"num_components: found {self.num_components} with {count} training pairs of {embed_dim} dimensions: "
                f"allowed is at most {most}, less than the pairs and no more than the dimensions: "
                "lower num_components, or give more captions"
            )
