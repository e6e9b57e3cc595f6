"""The spec of the trivial prior; no torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.priors.spec import PriorSpec, require_one_space


@dataclass(frozen=True)
class IdentityPriorSpec(PriorSpec):
    """The text embedding used as image embedding: nothing is trained, it is evaluated only."""

    model: ClassVar[str] = "models.priors.identity.model:IdentityPrior"
    is_trained: ClassVar[bool] = False
    sampling: ClassVar[Literal["steps", "guidance", "one_step", "fixed"]] = "fixed"

    kind: Literal["identity"] = field(default="identity", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_space(self, "kind", False, "shifted, gaussian, flow or projection")
