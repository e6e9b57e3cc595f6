"""What to measure with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig


class ClipFeatures(ConfigModel):
    """The image embeddings of ``evaluate`` where there is one, else of ``clip``."""

    kind: Literal["clip"]


class InceptionFeatures(ConfigModel):
    """The pool features of Inception-v3, under which published figures (FID) are measured."""

    kind: Literal["inception"]
    path: ExternalPath = Field(description="torch-fidelity's published weights: pt_inception-2015-12-05-6726825d.pth")


class EvaluateConfig(StageConfig):
    """Evaluate the images: by the rules of the scenes where the prompts describe scenes, and by CLIP."""

    stage: ClassVar[str] = "evaluate"
    code_version: ClassVar[int] = 3
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "single"

    clip: ClipConfig = Field(description="the CLIP models that prior and decoder were trained with")
    independent_clip: ClipConfig | None = Field(
        None, description="other CLIP models for a CLIP score that the models were not trained towards"
    )
    features: Annotated[ClipFeatures | InceptionFeatures, Field(discriminator="kind")] = Field(
        ClipFeatures(kind="clip"), description="network under which the distances to true images are taken"
    )
    real: ExternalPath | None = Field(
        None, description="folder of true images to take those distances to; none: those that the prompts describe"
    )
    batch_size: Annotated[PositiveInt, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The generated images, and the CLIP model where one is trained."""
        independent_clip = () if self.independent_clip is None else self.independent_clip.inputs
        return ("generate", *dict.fromkeys((*self.clip.inputs, *independent_clip)))
