"""Which images to leave out of training, by their embeddings."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from stages.contract.bounds import Count, CountOrZero
from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.errors import FailureCause
from stages.contract.stage import StageConfig
from stages.formats.captions import CaptionsConfig

Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]
_TAKEN_NAMES = frozenset({"key", "cause", "clip_score", *(cause.value for cause in FailureCause)})


class ClipScoreFilter(ConfigModel):
    """Leave out captioned images none of whose captions fits them; images without captions stay."""

    minimum: Cosine = Field(description="cosine of image and caption, the mean over the CLIP models; LAION-400M: 0.3")


class NearDuplicateFilter(ConfigModel):
    """Leave out an image where an earlier one, in the order of shards and rows, is as good as the same."""

    minimum: Cosine = Field(description="cosine of two images from which they count as the same, such as 0.97")
    within: Literal["all", "shard"] = Field(
        "all", description="all: compare every two images, which takes time by the square of their number; "
        "shard: only those in one shard, which finds about one pair in as many as there are shards"
    )  # fmt: skip


class HeadFilter(ConfigModel):
    """Leave out images by the output of a small network on the embedding: aesthetic score, chance of nudity, …"""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="what the head measures, such as aesthetic")
    path: ExternalPath = Field(description="safetensors: <n>.weight [out, in] and <n>.bias [out] of each layer, by n")
    model: CountOrZero = Field(0, description="whose embedding the head reads: the index in clip.models")
    normalise: bool = Field(True, description="bring the embedding to length 1 first")
    activation: Literal["none", "relu"] = Field("none", description="between layers; LAION's aesthetic head: none")
    sigmoid: bool = Field(False, description="the output is the sigmoid of the last layer")
    minimum: float | None = Field(None, description="images with a lower output are left out")
    maximum: float | None = Field(None, description="images with a higher output are left out")

    @model_validator(mode="after")
    def _has_a_bound(self) -> "HeadFilter":
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"{self.name}: has neither minimum nor maximum: give at least one")
        return self


class FilterSamplesConfig(StageConfig):
    """Leave out images by their embeddings; every later stage that reads embeddings reads the others only."""

    stage: ClassVar[str] = "filter_samples"
    code_version: ClassVar[int] = 3
    grows: ClassVar[bool] = True

    clip_score: ClipScoreFilter | None = Field(None, description="by the cosine to the captions; none: no such filter")
    captions: CaptionsConfig = Field(
        CaptionsConfig(), description="clip_score: which captions are read; unset: those of the experiment"
    )
    heads: tuple[HeadFilter, ...] = Field((), description="by the outputs of networks on the embedding")
    near_duplicates: NearDuplicateFilter | None = Field(
        None, description="by the similarity to earlier images that pass the other filters; none: no such filter"
    )
    block_rows: Annotated[Count, RuntimeOnly()] = Field(
        2048, description="rows of two blocks that are compared at a time; memory grows by the square"
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)

    @property
    def compares_all(self) -> bool:
        """Whether what becomes of a shard depends on those before it."""
        return self.near_duplicates is not None and self.near_duplicates.within == "all"

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read, and human ones alone are."""
        identity = super().identity()
        if self.clip_score is None:
            del identity["captions"]
        else:
            identity["captions"].pop("mix", None)
        return identity

    @model_validator(mode="after")
    def _has_a_filter(self) -> "FilterSamplesConfig":
        if self.clip_score is None and self.near_duplicates is None and not self.heads:
            raise ValueError("none of clip_score, heads and near_duplicates is set: set one, or leave the stage out")
        names = [head.name for head in self.heads]
        if len(set(names)) < len(names):
            raise ValueError(f"heads are named {', '.join(names)}: allowed is each name once")
        if taken := sorted(_TAKEN_NAMES.intersection(names)):
            raise ValueError(
                f"heads: found the name {', '.join(taken)}, which the table of scores has for something else: "
                "give another"
            )
        return self
