"""The autoregressive decoder of codes: transformer, conditions, and how it is trained."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from models.autoencoders.spec import AutoencoderConfig
from models.decoders.vq_autoregressive.spec import VQDecoderConfig
from stages.contract.config import ConfigModel
from stages.formats.captions import CaptionsConfig
from stages.training.config import TrainingConfig
from stages.training.images.config import ImageTrainingConfig


class CodeTransformerSection(ConfigModel):
    """The transformer and its conditions; see models.decoders.vq_autoregressive.spec.VQDecoderConfig."""

    width: PositiveInt = 192
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 6
    feed_forward_factor: PositiveFloat = Field(4.0, description="width of the gated layers, in widths")
    num_tokens: PositiveInt = Field(4, description="tokens that the embedding is projected to")
    layout_channels: int = Field(32, ge=0, description="channels of the map drawn from the embedding; 0: no map")
    layout_hidden: PositiveInt = 512
    empty_probability: float = Field(0.1, ge=0, lt=1, description="share of embeddings replaced by the empty one")
    embedding_noise: float = Field(0.1, ge=0, description="noise on embeddings in training, in their deviations")
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")


Condition = Literal["image", "text", "both"]


class VQAutoregressiveConfig(ImageTrainingConfig):
    """Train a transformer on the codes that encode_latents made by the VQ autoencoder of train_autoencoder.

    The images' resolution is the autoencoder's; ``resolution`` has to say the same.
    """

    stage: ClassVar[str] = "train_decoder"

    kind: Literal["vq_autoregressive"]
    condition: Condition = Field(
        "image", description="embeddings that codes are predicted from; without a caption, text is a learned empty one"
    )
    captions: CaptionsConfig = Field(CaptionsConfig(), description="condition text or both: which captions are read")
    network: CodeTransformerSection = CodeTransformerSection()
    training: TrainingConfig = TrainingConfig(
        num_steps=1000,
        batch_size=32,
        learning_rate=1e-3,
        betas=(0.9, 0.96),
        weight_decay=0.05,
        warmup_steps=50,
        schedule="cosine",
        ema_decay=0.99,
        checkpoint_interval=200,
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, the codes, and the autoencoder that draws images from them."""
        return ("download_shards", "embed_clip", "train_autoencoder", "encode_latents")

    @model_validator(mode="after")
    def _can_be_built(self) -> "VQAutoregressiveConfig":
        if self.network.width % self.network.num_heads:
            raise ValueError(
                f"network.width is {self.network.width} with {self.network.num_heads} heads: the width must be a "
                "multiple of num_heads: change one of them"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read."""
        identity = super().identity()
        if self.condition == "image":
            del identity["captions"]
        return identity

    def decoder(self, embed_dim: int, autoencoder: AutoencoderConfig) -> VQDecoderConfig:
        """Return the decoder's own configuration, for embeddings of that width and codes of that kind.

        Raises:
            ValueError: the transformer cannot be built.
        """
        fields: dict[str, Any] = dict(self.network)
        if self.condition == "text":
            fields["layout_channels"] = 0  # the layout is drawn from the image embedding
        return VQDecoderConfig(
            embed_dim=embed_dim,
            autoencoder=autoencoder,
            text_dim=0 if self.condition == "image" else embed_dim,
            reads_image_embedding=self.condition != "text",
            **fields,
        )
