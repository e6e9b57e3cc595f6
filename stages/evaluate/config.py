"""What to measure with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.errors import InputFault
from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig, check_clip


class ClipFeatures(ConfigModel):
    """The image embeddings of ``evaluate`` where there is one, else of ``clip``."""

    kind: Literal["clip"]


class InceptionFeatures(ConfigModel):
    """The pool features of Inception-v3, under which published figures (FID) are measured."""

    kind: Literal["inception"]
    path: ExternalPath = Field(description="torch-fidelity's published weights: pt_inception-2015-12-05-6726825d.pth")


class EvaluateConfig(StageConfig):
    """Judge the images: by the rules of the scenes where the prompts describe scenes, and by CLIP."""

    stage: ClassVar[str] = "evaluate"
    code_version: ClassVar[int] = 2
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "single"

    clip: ClipConfig = Field(description="the CLIP models that prior and decoder were trained with")
    independent_clip: ClipConfig | None = Field(
        None, description="other CLIP models for a CLIP score that the models were not trained towards"
    )
    features: Annotated[ClipFeatures | InceptionFeatures, Field(discriminator="kind")] = Field(
        ClipFeatures(kind="clip"), description="network under which the Fréchet distance to true images is taken"
    )
    real: ExternalPath | None = Field(
        None,
        description="folder of true images to take that distance to; none: the scenes that the prompts tell",
    )
    batch_size: Annotated[PositiveInt, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The drawn images, and the CLIP model where one is trained."""
        independent_clip = () if self.independent_clip is None else self.independent_clip.inputs
        return ("generate", *dict.fromkeys((*self.clip.inputs, *independent_clip)))

    def check(self) -> None:
        """Look whether the CLIP models, the features' weights and the true images are there.

        Raises:
            InputFault: one is not.
        """
        if isinstance(self.features, InceptionFeatures) and not self.features.path.is_file():
            raise InputFault(
                f"evaluate.features.path: there is no file {self.features.path}: give the weights that torch-fidelity "
                "publishes, or choose kind: clip"
            )
        if self.real is not None and not self.real.is_dir():
            raise InputFault(f"evaluate.real: there is no folder {self.real}: give a folder of true images")
        check_clip(self.clip)
        if self.independent_clip is not None:
            check_clip(self.independent_clip)
