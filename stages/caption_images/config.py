"""Which model captions the images, and how."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from stages.contract.bounds import Count
from stages.contract.config import ExternalPath, RuntimeOnly
from stages.contract.stage import StageConfig
from stages.encoders.config import UNUSED_WEIGHTS, FolderModel, Stored


class CaptioningModel(FolderModel):
    """A captioning model: a folder in the format of transformers; docs/captions.md lists the types."""

    unused_files: ClassVar[tuple[str, ...]] = UNUSED_WEIGHTS

    path: ExternalPath = Field(
        description="folder with config.json, weights (safetensors), preprocessor_config.json and tokenizer"
    )

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredCaptioningModel

    @property
    def reference(self) -> str:
        """The model, for people."""
        return str(self.path)

    def local(self) -> Self:
        """Return it as it is to be opened at once on this machine."""
        return self


class StoredCaptioningModel(Stored, CaptioningModel):
    """A captioning model in the store."""


class CaptionImagesConfig(StageConfig):
    """Make pseudo-captions of the images; they are embedded beside the human ones, and mixed by captions.mix."""

    stage: ClassVar[str] = "caption_images"
    grows: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    model: CaptioningModel
    images: Literal["all", "uncaptioned"] = Field(
        "all", description="all: every image, whichever human captions captions.fraction leaves later; uncaptioned: "
        "those that have no human caption at all",
    )  # fmt: skip
    prompt: str | None = Field(
        None,
        max_length=1000,
        description="begins each caption (BLIP, GIT), or is the whole conversation (LLaVA); none: the model's own way",
    )
    num_captions: Count = Field(1, le=32, description="captions of each image; equal ones count once")
    max_new_tokens: Count = Field(30, le=512, description="most tokens of a caption")
    max_characters: Count = Field(1000, description="a longer caption is cut where its last whole word ends")
    num_beams: Count = Field(1, le=64, description="beams of the search where nothing is sampled; 1: greedy")
    temperature: NonNegativeFloat = Field(
        0.0, le=10.0, description="of sampling, seeded by each image's key; 0: nothing is sampled"
    )
    seed: int = Field(0, description="of sampling; unset: that of the experiment")
    min_yield: Annotated[float, RuntimeOnly()] = Field(
        0.5, ge=0.0, le=1.0, description="fraction of the images to caption that must get one, else the stage fails"
    )
    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        "bfloat16", description="of the arithmetic on a GPU; on a CPU it is float32"
    )
    batch_size: Annotated[Count, RuntimeOnly()] = Field(16, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images."""
        return ("download_shards",)

    @property
    def streams_from(self) -> tuple[str, ...]:
        """A shard is captioned as soon as it is downloaded."""
        return self.inputs

    @property
    def units_are_final(self) -> bool:
        """A shard's pseudo-captions are never changed."""
        return True

    @property
    def is_sampled(self) -> bool:
        """Whether captions are sampled."""
        return self.temperature > 0

    @model_validator(mode="after")
    def _captions_can_differ(self) -> "CaptionImagesConfig":
        if self.is_sampled and self.num_beams > 1:
            raise ValueError(
                f"num_beams is {self.num_beams} with temperature {self.temperature:g}, which samples: allowed is one "
                "of them: leave the other out"
            )
        if not self.is_sampled and self.num_captions > self.num_beams:
            raise ValueError(
                f"num_captions is {self.num_captions} with num_beams {self.num_beams}: a search has at most as many "
                "captions as beams: raise num_beams, or set temperature above 0, which samples each caption"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; the seed counts where captions are sampled."""
        identity = super().identity()
        if not self.is_sampled:
            del identity["seed"]
        return identity
