"""How the colors of images are measured."""

from typing import ClassVar

from pydantic import Field

from stages.contract.stage import StageConfig


class MeasureColorsConfig(StageConfig):
    """Measure the mean color of the images."""

    stage: ClassVar[str] = "measure_colors"

    scale: float = Field(255.0, gt=0, description="the value of white in the result")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images."""
        return ("download_shards",)

    @property
    def streams_from(self) -> tuple[str, ...]:
        """Shards are measured as they come."""
        return self.inputs
