"""Which embeddings to make, and how to keep them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract import RuntimeOnly, StageConfig
from stages.encoders.config import ClipConfig, TextStatesConfig, check_clip, check_t5


class EmbedClipConfig(StageConfig):
    """Embed every image and every caption of the shards by CLIP."""

    stage: ClassVar[str] = "embed_clip"
    code_version: ClassVar[int] = 2
    uses_gpu: ClassVar[bool] = True

    clip: ClipConfig
    storage: Literal["float16", "float32"] = Field("float16", description="type of the stored numbers")
    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float16", description="of the arithmetic on a GPU; on a CPU it is float32"
    )
    text_states: TextStatesConfig | None = Field(
        None, description="token states of the captions to make as well, which a prior may read: t5, clip; none: none"
    )
    batch_size: Annotated[PositiveInt, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The shards, and the CLIP model where that is trained."""
        return ("download_shards", *self.clip.inputs)

    def check(self) -> None:
        """Look whether the CLIP models and the T5 encoder are there.

        Raises:
            InputFault: one is not.
        """
        check_clip(self.clip)
        if self.text_states is not None and self.text_states.t5 is not None:
            check_t5(self.text_states.t5, where="embed_clip.text_states.t5")
