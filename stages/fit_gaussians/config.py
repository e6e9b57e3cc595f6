"""How the Gaussians are fitted."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from stages.contract import StageConfig


class FitGaussiansConfig(StageConfig):
    """Fit Gaussians with diagonal covariances to all image embeddings, captioned or not, by k-means."""

    stage: ClassVar[str] = "fit_gaussians"
    code_version: ClassVar[int] = 2
    work: ClassVar[Literal["shards", "training", "single"]] = "shards"

    seed: int = 0
    num_gaussians: PositiveInt = Field(16, description="how many (k); the paper: 1 to 1024, better as it grows")
    max_iterations: PositiveInt = Field(50, description="most passes over the data that move the means")
    tolerance: NonNegativeFloat = Field(
        1e-4, description="stop when a pass lowers the sum of squared distances by no more than this share"
    )
    sample_size: PositiveInt = Field(
        65_536, description="embeddings held in memory to choose the first means and to fill Gaussians left empty"
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)
