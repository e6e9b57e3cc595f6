"""The spec of the flow prior; no torch.

Papers: Flow Straight and Fast (arXiv 2209.03003) for the path; Flowing from Words to Pixels (CrossFlow, arXiv
2412.15213) for the text as source; Scaling Rectified Flow Transformers (arXiv 2403.03206) for the times; Diffusion
Transformers with Representation Autoencoders (RAE, arXiv 2510.11690) for the shift by dimensions.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from models.diffusion.spec import ProcessConfig, Target
from models.fields import require
from models.priors.diffusion.spec import ProcessPriorSpec, require_noise_scale
from models.priors.spec import PriorSampler, require_one_space

Source = Literal["noise", "gaussian", "text"]
TimeDistribution = Literal["uniform", "logit_normal"]


@dataclass(frozen=True)
class FlowPriorSpec(ProcessPriorSpec):
    """Flow matching: straight lines from a source to the embeddings."""

    model: ClassVar[str] = "models.priors.flow.model:FlowPrior"
    default_sampler: ClassVar[PriorSampler] = "euler"

    kind: Literal["flow"] = field(default="flow", kw_only=True)
    target: Target = "velocity"
    """What the network predicts: the velocity, or the clean embedding (sample)."""
    source: Source = "noise"
    """noise: N(0, Sigma); gaussian: the caption's Gaussian, shifted diffusion's idea; text: the caption's CLIP text
    embedding, moved to the mean and the standard deviations of the image embeddings, and noise."""
    noise_scale: float = 1.0
    """Standard deviation of the source's noise as a multiple of the training embeddings' (root mean square)."""
    times: TimeDistribution = "logit_normal"
    """How the times of training are distributed."""
    base_dims: int | None = None
    """Shift all times by sqrt(embed_dim / base_dims); RAE: 4096; null: no shift."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "source", self.source in get_args(Source), "noise, gaussian or text")
        require(self, "times", self.times in get_args(TimeDistribution), "uniform or logit_normal")
        require(self, "base_dims", self.base_dims is None or self.base_dims >= 1, "1 or more, or null")
        require_noise_scale(self, self.noise_scale)
        require_one_space(self, "source", self.source != "text", "noise or gaussian")
        sourced = self.source != "text" or not self.is_unconditional
        require(self, "source", sourced, "noise or gaussian where the prior learns without captions")

    @classmethod
    def learns_from_images(cls, section: Any) -> bool:
        """It can where its source is no text."""
        return bool(section.source != "text")

    @classmethod
    def uses_gaussians(cls, section: Any) -> bool:
        """Return whether the source is one of them."""
        return bool(section.source == "gaussian")

    @property
    def is_flow(self) -> bool:
        """It is."""
        return True

    @property
    def process(self) -> ProcessConfig:
        """The path; flows weigh all times alike."""
        return ProcessConfig(path="flow", target=self.target)
