"""The spec of the trivial prior; no torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from models.priors.spec import PriorSpec

if TYPE_CHECKING:
    from models.priors.identity.model import IdentityPrior


@dataclass(frozen=True)
class IdentityPriorSpec(PriorSpec):
    """The text embedding used as image embedding: nothing is trained, it is evaluated only."""

    is_trained: ClassVar[bool] = False
    sampling: ClassVar[Literal["steps", "guidance", "fixed"]] = "fixed"

    kind: Literal["identity"] = field(default="identity", kw_only=True)

    def model_class(self) -> "type[IdentityPrior]":
        """Return the module; imports torch."""
        from models.priors.identity.model import IdentityPrior

        return IdentityPrior
