"""What to measure with."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from stages.contract.bounds import Count, Seed
from stages.contract.config import ExternalPath, RuntimeOnly
from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig
from stages.encoders.features.config import ClipFeatures, EfficientNetFeatures, Features
from stages.encoders.image_to_text.config import QuestionAnswering


class EvaluateConfig(StageConfig):
    """Evaluate the images: by the rules of the scenes where the prompts describe scenes, and by CLIP."""

    stage: ClassVar[str] = "evaluate"
    code_version: ClassVar[int] = 10
    uses_gpu: ClassVar[bool] = True
    cpus_for_each_model: ClassVar[int] = 8

    clip: ClipConfig = Field(description="the CLIP models that prior and decoder were trained with")
    independent_clip: ClipConfig | None = Field(
        None, description="other CLIP models for a CLIP score that the models were not trained towards"
    )
    features: Annotated[Features, Field(discriminator="kind")] = Field(
        EfficientNetFeatures(kind="efficientnet_lite0"),
        description="network under which the distances to true images are taken",
    )
    real: ExternalPath | None = Field(
        None, description="folder of true images to take those distances to; none: those that the prompts describe"
    )
    question_answering: QuestionAnswering | None = Field(
        None,
        description="a model that is asked of each image whether it shows its prompt (VQAScore); none: no such score",
    )
    pairwise_images: Count = Field(
        4096,
        ge=2,
        description="most images of a figure that compares all with all (KID, CMMD, precision, density, ranks); "
        "of more, evenly spaced ones; the Fréchet distance and all means are of all images",
    )
    seed: Seed = Field(0, description="of the resampling that intervals come from")
    batch_size: Annotated[Count, RuntimeOnly()] = Field(64, description="images at a time")

    @model_validator(mode="after")
    def _other_clips_are_clips(self) -> "EvaluateConfig":
        of_features = self.features.clip if isinstance(self.features, ClipFeatures) else None
        for name, clip in (("independent_clip", self.independent_clip), ("features.clip", of_features)):
            if clip is not None and clip.images is not None:
                raise ValueError(
                    f"{name}.images: found one, and CLIP models measure here by both their towers: leave it out "
                    "(features of kind vision_transformer or timm measure by another encoder)"
                )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The generated images, and the CLIP model where one is trained."""
        of_features = self.features.clip if isinstance(self.features, ClipFeatures) else None
        clips = [clip for clip in (self.clip, self.independent_clip, of_features) if clip is not None]
        return ("generate", *dict.fromkeys(name for clip in clips for name in clip.inputs))
