"""The StyleGAN2 decoder: both networks, their losses, and how they are trained together."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from models.decoders.stylegan2.spec import (
    AdversarialSettings,
    DiscriminatorNetwork,
    DiscriminatorSpec,
    GeneratorNetwork,
    StyleGan2Spec,
)
from stages.contract.config import RuntimeOnly
from stages.encoders.config import ClipConfig
from stages.train_decoder.base_config import DecoderConfig
from stages.training.config import TrainingConfig, require_one_pass


class StyleGan2DecoderConfig(DecoderConfig):
    """Train a StyleGAN2 decoder on all images."""

    code_version: ClassVar[int] = 3

    kind: Literal["stylegan2"]
    clip: ClipConfig
    generator: GeneratorNetwork = GeneratorNetwork()
    discriminator: DiscriminatorNetwork = DiscriminatorNetwork()
    losses: AdversarialSettings = AdversarialSettings()
    gradient_checkpointing: Annotated[bool, RuntimeOnly()] = Field(
        False, description="compute levels again in the backward pass: less memory for activations, more time"
    )
    training: TrainingConfig = TrainingConfig(
        num_steps=1500, batch_size=32, learning_rate=2e-3, betas=(0.0, 0.99), warmup_steps=20, schedule="cosine",
        gradient_clip=None, ema_decay=0.99, checkpoint_interval=200,
    )  # fmt: skip

    @model_validator(mode="after")
    def _can_be_built(self) -> "StyleGan2DecoderConfig":
        self.spec(1)
        self.discriminator_spec(1)
        return self

    @model_validator(mode="after")
    def _second_gradients_can_be_taken(self) -> "StyleGan2DecoderConfig":
        if self.training.zero_stage == 3 or self.training.compile:
            found = "compile is true" if self.training.compile else "zero_stage is 3"
            raise ValueError(
                f"training.{found}: allowed for stylegan2 are compile: false and zero_stage 0, 1 or 2, for its "
                "regularization takes gradients of gradients, which compiled graphs and split weights do not give"
            )
        return self

    @model_validator(mode="after")
    def _images_are_compared_in_one_pass(self) -> "StyleGan2DecoderConfig":
        require_one_pass(self.training, "stylegan2, whose losses compare the images of a pass with one another")
        return self

    @model_validator(mode="after")
    def _steps_are_not_decayed(self) -> "StyleGan2DecoderConfig":
        if self.training.weight_decay > 0:
            raise ValueError(
                f"training.weight_decay is {self.training.weight_decay}: allowed for stylegan2 is 0, for stored "
                "weights are scaled where they are used"
            )
        return self

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell whether weights may be compared by it: not by the loss, in which the discriminator takes part."""
        return metric != "held_out_loss"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings, and the CLIP model where that is trained."""
        return (*super().inputs, *self.clip.inputs)

    def spec(self, embed_dim: int) -> StyleGan2Spec:
        """Return the generator's spec, for embeddings of that width."""
        return StyleGan2Spec(embed_dim=embed_dim, resolution=self.resolution, network=self.generator)

    def discriminator_spec(self, embed_dim: int) -> DiscriminatorSpec:
        """Return the discriminator's spec."""
        return DiscriminatorSpec(embed_dim=embed_dim, resolution=self.resolution, network=self.discriminator)
