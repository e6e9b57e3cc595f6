"""What to measure with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract import RuntimeOnly, StageConfig
from stages.encoders.config import ClipConfig, check_clip


class EvaluateConfig(StageConfig):
    """Judge the pictures: by the rules of the scenes where the prompts describe scenes, and by CLIP."""

    stage: ClassVar[str] = "evaluate"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "single"

    clip: ClipConfig = Field(description="the CLIP models that prior and decoder were trained with")
    judge: ClipConfig | None = Field(
        None, description="other CLIP models for a CLIP score that the models were not trained towards"
    )
    batch_size: Annotated[PositiveInt, RuntimeOnly()] = Field(64, description="pictures at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The drawn pictures, and the CLIP model where one is trained."""
        judge = () if self.judge is None else self.judge.inputs
        return ("generate", *dict.fromkeys((*self.clip.inputs, *judge)))

    def check(self) -> None:
        """Look whether the CLIP models are there.

        Raises:
            InputFault: one is not.
        """
        check_clip(self.clip)
        if self.judge is not None:
            check_clip(self.judge)
