"""The StyleGAN2 decoder: both networks, their losses, and how they are trained together."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.decoders.stylegan2.spec import (
    AdversarialSettings,
    Augmentation,
    DiscriminatorConfig,
    StartGrid,
    StyleGan2Config,
)
from stages.contract.config import ConfigModel, RuntimeOnly
from stages.encoders.config import ClipConfig
from stages.training.config import TrainingConfig
from stages.training.images.config import ImageTrainingConfig

Probability = Annotated[float, Field(ge=0, le=1)]


class GeneratorConfig(ConfigModel):
    """The generator; see models.decoders.stylegan2.spec.StyleGan2Config."""

    channels: tuple[PositiveInt, ...] = Field((128, 96, 64), description="width by level, smallest grid first")
    patch_size: PositiveInt = Field(4, description="pixels per side that a cell of the largest grid draws; paper: 1")
    latent_dim: PositiveInt = Field(32, description="width of the noise that makes images of one embedding differ")
    style_dim: PositiveInt = 128
    mapping_layers: PositiveInt = 2
    mapping_rate: PositiveFloat = Field(0.1, description="the mapping network's relative learning rate; paper: 0.01")
    condition_dim: NonNegativeInt = Field(128, description="what each layer's style sees of the embedding itself")
    start: StartGrid = Field("embedding", description="smallest grid: a constant, or a layout drawn from the embedding")
    layer_noise: bool = Field(False, description="learned amounts of noise in every layer")


class DiscriminatorSection(ConfigModel):
    """The discriminator; see models.decoders.stylegan2.spec.DiscriminatorConfig."""

    channels: tuple[PositiveInt, ...] = Field((128, 96, 64), description="width by level, smallest grid first")
    patch_size: PositiveInt = Field(4, description="pixels per side that one cell of its largest grid sees; paper: 1")
    feature_dim: PositiveInt = 256
    std_group: NonNegativeInt = Field(4, description="images compared for sameness; 0: none")
    rate: PositiveFloat = Field(1.0, description="learning rate relative to the generator's")


class AdversarialSection(ConfigModel):
    """Losses of both networks; see models.decoders.stylegan2.spec.AdversarialSettings."""

    r1_weight: NonNegativeFloat = Field(1.0, description="gamma of R1, the discriminator's gradient penalty")
    r1_interval: PositiveInt = Field(16, description="steps from one R1 to the next")
    path_weight: NonNegativeFloat = Field(0.0, description="weight of path-length regularization; paper: 2")
    path_interval: PositiveInt = Field(4, description="steps from one path length to the next")
    clip_weight: NonNegativeFloat = Field(1.0, description="InfoNCE of drawn images' CLIP embeddings; 0: no CLIP")
    clip_temperature: PositiveFloat = 0.1
    feature_weight: NonNegativeFloat = Field(1.0, description="InfoNCE of the discriminator's features")
    feature_temperature: PositiveFloat = 0.1
    match_weight: NonNegativeFloat = Field(
        0.0, description="likeness of what the discriminator sees in drawn and true images; paper: 0"
    )
    embedding_noise: NonNegativeFloat = Field(
        0.0, description="xi of pseudo text in the embedding's place; 0: none; Lafite language-free: 3"
    )
    augmentation: Augmentation = Field("none", description="of what the discriminator sees")
    augmentation_probability: Probability = Field(0.0, description="of each change; where adaptive begins")
    augmentation_target: float = Field(0.6, ge=-1, le=1, description="adaptive: mean sign on true images to keep")
    augmentation_images: PositiveInt = Field(500_000, description="adaptive: images from probability 0 to 1 at most")


class StyleGan2DecoderConfig(ImageTrainingConfig):
    """Train a StyleGAN2 decoder on all images."""

    stage: ClassVar[str] = "train_decoder"

    kind: Literal["stylegan2"]
    clip: ClipConfig
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    losses: AdversarialSection = AdversarialSection()
    gradient_checkpointing: Annotated[bool, RuntimeOnly()] = Field(
        False, description="compute levels again in the backward pass: less memory for activations, more time"
    )
    training: TrainingConfig = TrainingConfig(
        num_steps=1500,
        batch_size=32,
        learning_rate=2e-3,
        betas=(0.0, 0.99),
        warmup_steps=20,
        schedule="cosine",
        gradient_clip=None,
        ema_decay=0.99,
        checkpoint_interval=200,
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> "StyleGan2DecoderConfig":
        self.decoder(1)
        self.evaluate(1)
        self.settings()
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
    def _steps_are_not_decayed(self) -> "StyleGan2DecoderConfig":
        if self.training.weight_decay > 0:
            raise ValueError(
                f"training.weight_decay is {self.training.weight_decay}: allowed for stylegan2 is 0, for stored "
                "weights are scaled where they are used"
            )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings, and the CLIP model where that is trained."""
        return (*super().inputs, *self.clip.inputs)

    def decoder(self, embed_dim: int) -> StyleGan2Config:
        """Return the generator's own configuration, for embeddings of that width.

        Raises:
            ValueError: the network cannot be built at this resolution.
        """
        return StyleGan2Config(embed_dim=embed_dim, resolution=self.resolution, **dict(self.generator))

    def evaluate(self, embed_dim: int) -> DiscriminatorConfig:
        """Return the discriminator's configuration.

        Raises:
            ValueError: the network cannot be built at this resolution.
        """
        return DiscriminatorConfig(embed_dim=embed_dim, resolution=self.resolution, **dict(self.discriminator))

    def settings(self) -> AdversarialSettings:
        """Return the losses' settings."""
        return AdversarialSettings(**dict(self.losses))
