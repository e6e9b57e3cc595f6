"""How a trained prior is sampled: the settings that validation and generation share."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from stages.contract.config import ConfigModel

if TYPE_CHECKING:
    from models.priors import PriorSampling


class PriorSolverConfig(ConfigModel):
    """How a prior is sampled, but for the number of steps; priors without a diffusion process read guidance only."""

    sampler: Literal["ancestral", "ddim", "dpm_solver"] = Field(
        "ancestral", description="ancestral: method eq. 3, random; ddim: eta says how random; dpm_solver: DPM-Solver++"
    )
    variance: Literal["posterior", "large"] = Field(
        "posterior", description="sampler ancestral: of the step's noise; large: beta_t Sigma, as the paper's code has"
    )
    eta: float = Field(0.0, ge=0.0, le=1.0, description="sampler ddim: 0 is deterministic, 1 as random as ancestral")
    guidance_scale: float = Field(1.0, ge=0.0, description="classifier-free guidance; 1: none")
    guidance_rescale: float = Field(
        0.0, ge=0.0, le=1.0, description="how far the guided deviation is brought back to the captioned one; 0: not"
    )

    @model_validator(mode="after")
    def _settings_of_the_sampler(self) -> "PriorSolverConfig":
        if self.eta and self.sampler != "ddim":
            raise ValueError(
                f"eta is {self.eta} with sampler {self.sampler}, which has none: set sampler to ddim, or eta to 0"
            )
        if self.variance != "posterior" and self.sampler != "ancestral":
            raise ValueError(
                f"variance is {self.variance} with sampler {self.sampler}, which has no such choice: "
                "set sampler to ancestral, or variance to posterior"
            )
        return self

    def with_steps(self, num_steps: int) -> "PriorSampling":
        """Return the model's own settings for a number of steps; imports torch."""
        from models.priors import PriorSampling

        return PriorSampling(
            num_steps=num_steps,
            sampler=self.sampler,
            variance=self.variance,
            eta=self.eta,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
        )


class PriorSamplingConfig(PriorSolverConfig):
    """How a prior is sampled."""

    num_steps: PositiveInt = Field(64, description="steps from noise to embedding; the paper: 64")

    def settings(self) -> "PriorSampling":
        """Return the model's own settings; imports torch."""
        return self.with_steps(self.num_steps)
