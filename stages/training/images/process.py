"""The settings of a noise process, which every diffusion of images or latents has."""

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from models.diffusion.spec import ProcessConfig, Target
from stages.contract.config import ConfigModel


class ProcessSection(ConfigModel):
    """The noise process, and what the network predicts; see models.decoders.pixel_diffusion.spec.ProcessConfig."""

    path: Literal["flow", "ddpm"] = Field("flow", description="flow: straight to noise; ddpm: variance-preserving")
    target: Target = Field("sample", description="what the network predicts; path flow: sample only")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="path ddpm: how the image fades")
    loss_weight: Literal["min_snr", "uniform"] = Field("min_snr", description="path ddpm: weight of the error by time")
    min_snr_gamma: PositiveFloat = Field(5.0, description="loss_weight min_snr: largest weight of an image's error")
    zero_terminal_snr: bool = Field(False, description="path ddpm: let the last step be noise alone")

    @model_validator(mode="after")
    def _can_be_built(self) -> "ProcessSection":
        self.settings()
        return self

    def settings(self) -> ProcessConfig:
        """Return the model's own configuration.

        Raises:
            ValueError: the choices do not go together.
        """
        return ProcessConfig(**dict(self))
