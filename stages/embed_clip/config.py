"""Which embeddings to make, and how to keep them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract import RuntimeOnly, StageConfig
from stages.encoders.config import ClipConfig, check_clip


class EmbedClipConfig(StageConfig):
    """Embed every image and every caption of the shards by CLIP."""

    stage: ClassVar[str] = "embed_clip"
    uses_gpu: ClassVar[bool] = True

    clip: ClipConfig
    storage: Literal["float16", "float32"] = Field("float16", description="type of the stored numbers")
    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float16", description="of the arithmetic on a GPU; on a CPU it is float32"
    )
    batch_size: Annotated[PositiveInt, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The shards."""
        return ("download_shards",)

    def check(self) -> None:
        """Look whether the CLIP models are there.

        Raises:
            InputFault: one is not.
        """
        check_clip(self.clip)
