"""How the Gaussians are fitted."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from stages.contract.bounds import Count, Seed
from stages.contract.config import RuntimeOnly
from stages.contract.stage import StageConfig

ROWS_PER_GAUSSIAN = 8
SMALLEST_SAMPLE = 4096


class FitGaussiansConfig(StageConfig):
    """Fit Gaussians with diagonal covariances to all image embeddings, captioned or not, by k-means."""

    stage: ClassVar[str] = "fit_gaussians"
    code_version: ClassVar[int] = 5
    grows: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "shards"

    seed: Seed = 0
    kind: Literal["euclidean", "spherical"] = Field(
        "euclidean", description="assign embeddings to the nearest mean, or (spherical) to the one of largest cosine"
    )
    num_gaussians: Count = Field(16, description="how many (k); the paper: 1 to 1024, better as it grows")
    max_iterations: Count = Field(50, description="most passes over the data")
    tolerance: NonNegativeFloat = Field(
        1e-4, description="stop when a pass lowers the sum of squared distances by no more than this fraction"
    )
    sample_size: Count | None = Field(
        None,
        description="embeddings to choose first means from, and new ones when a Gaussian is left empty; "
        f"none: {ROWS_PER_GAUSSIAN} for each Gaussian, and at least {SMALLEST_SAMPLE}",
    )

    start: Annotated[Literal["previous", "new"], RuntimeOnly()] = Field(
        "previous",
        description="where the embeddings have grown: begin with the means of the last fit of the same settings "
        "(previous), or with a sample, as where there is none (new)",
    )
    grown_from: str | None = Field(
        None, description="fingerprint of that fit; null: the newest one whose embeddings were taken over, if any"
    )

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """What a fit is made of."""
        return ("embed_clip", "filter_samples")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; the fit that it begins with counts where there is one."""
        identity = super().identity()
        if self.grown_from is None:
            del identity["grown_from"]
        return identity

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)

    @property
    def rows_in_sample(self) -> int:
        """How many embeddings to sample."""
        return self.sample_size or max(SMALLEST_SAMPLE, ROWS_PER_GAUSSIAN * self.num_gaussians)
