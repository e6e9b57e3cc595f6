"""The spec of the one-step prior; no torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from models.fields import require
from models.priors.spec import PriorSpec, TransformerSpec, require_one_space

Form = Literal["mlp", "transformer"]


@dataclass(frozen=True)
class ProjectionPriorSpec(PriorSpec):
    """A network that maps the caption to the embedding in one step; nothing is random."""

    model: ClassVar[str] = "models.priors.projection.model:ProjectionPrior"
    sampling: ClassVar[Literal["steps", "guidance", "one_step", "fixed"]] = "one_step"
    version: ClassVar[int] = 6

    kind: Literal["projection"] = field(default="projection", kw_only=True)
    network: TransformerSpec = field(default_factory=TransformerSpec)
    form: Form = "transformer"
    """transformer: reads token states too; mlp: residual blocks on the CLIP text embedding alone."""
    contrastive_weight: float = 0.2
    """Weight of the contrastive loss beside the squared error; ECLIPSE: 0.2."""
    temperature: float = 0.01
    """Of the contrastive loss; CLIP's own at the end of its training: 0.01."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "form", self.form in get_args(Form), "mlp or transformer")
        require(self, "contrastive_weight", self.contrastive_weight >= 0, "0 or more")
        require_one_space(self, "contrastive_weight", self.contrastive_weight == 0, "0")
        require(self, "temperature", self.temperature > 0, "above 0")
        if self.form == "mlp" and self.network.text_states:
            raise ValueError(
                f"ProjectionPriorSpec.form: found mlp with text states of {', '.join(self.network.text_states)}: "
                "expected none, which it cannot read: set text_states: [] or form: transformer"
            )

    @property
    def compared_in_batches(self) -> str:
        """The contrast, where it has a weight."""
        return "contrastive_weight above 0, which contrasts all pairs of a batch" if self.contrastive_weight else ""

    @property
    def num_sampling_steps(self) -> int:
        """One."""
        return 1
