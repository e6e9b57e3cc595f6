"""The autoregressive decoder of codes: transformer, conditions, and how it is trained."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from models.autoencoders.spec import AutoencoderSpec
from models.decoders.vq_autoregressive.spec import CodeNetwork, VQAutoregressiveSpec
from stages.formats.captions import CaptionsConfig
from stages.train_decoder.base_config import DecoderConfig
from stages.training.config import TrainingConfig

Condition = Literal["image", "text", "both"]


class VQAutoregressiveConfig(DecoderConfig):
    """Train a transformer on the codes that encode_latents made by the VQ autoencoder of train_autoencoder.

    The images' resolution is the autoencoder's; ``resolution`` must be the same.
    """

    code_version: ClassVar[int] = 2

    kind: Literal["vq_autoregressive"]
    condition: Condition = Field(
        "image", description="embeddings that codes are predicted from; without a caption, text is a learned empty one"
    )
    captions: CaptionsConfig = Field(CaptionsConfig(), description="condition text or both: which captions are read")
    network: CodeNetwork = CodeNetwork()
    training: TrainingConfig = TrainingConfig(
        num_steps=1000, batch_size=32, learning_rate=1e-3, betas=(0.9, 0.96), weight_decay=0.05, warmup_steps=50,
        schedule="cosine", ema_decay=0.99, checkpoint_interval=200,
    )  # fmt: skip

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, the codes, and the autoencoder that decodes them."""
        return ("download_shards", "embed_clip", "train_autoencoder", "encode_latents")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read."""
        identity = super().identity()
        if self.condition == "image":
            del identity["captions"]
        return identity

    def spec(self, embed_dim: int, autoencoder: AutoencoderSpec) -> VQAutoregressiveSpec:
        """Return the decoder's spec, for embeddings of that width and codes of that autoencoder."""
        texts_only = self.condition == "text"  # the layout map is made of the image embedding
        return VQAutoregressiveSpec(
            embed_dim=embed_dim,
            autoencoder=autoencoder,
            text_dim=0 if self.condition == "image" else embed_dim,
            reads_image_embedding=not texts_only,
            network=replace(self.network, layout_channels=0) if texts_only else self.network,
        )
