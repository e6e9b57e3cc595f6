"""The latent-diffusion decoder: network, noise process, and how it is trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.autoencoders.spec import AutoencoderSpec
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentMLP, LatentTransformer, LatentUNet
from models.decoders.spec import Conditioning
from models.diffusion.spec import ProcessConfig
from stages.contract.config import spec_from
from stages.train_decoder.base_config import TextTunedConfig
from stages.training.config import TrainingConfig


class LatentDiffusionConfig(TextTunedConfig):
    """Train a diffusion on the latents that encode_latents made by the autoencoder of train_autoencoder.

    The images' resolution is the autoencoder's; ``resolution`` must be the same.
    """

    code_version: ClassVar[int] = 2

    kind: Literal["latent_diffusion"]
    network: Annotated[LatentUNet | LatentTransformer | LatentMLP, Field(discriminator="kind")] = LatentUNet()
    conditioning: Conditioning = Conditioning()
    process: ProcessConfig = ProcessConfig()
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")
    training: TrainingConfig = TrainingConfig(
        num_steps=1000, batch_size=32, learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup_steps=50,
        schedule="cosine", ema_decay=0.99, checkpoint_interval=200,
    )  # fmt: skip

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, the latents, and the autoencoder that decodes them."""
        return ("download_shards", "embed_clip", "train_autoencoder", "encode_latents")

    def spec(
        self, embed_dim: int, autoencoder: AutoencoderSpec, *, scale_factor: float = 1.0, shift: float = 0.0
    ) -> LatentDiffusionSpec:
        """Return the decoder's spec, for embeddings of that width and latents of that autoencoder."""
        return spec_from(
            self,
            LatentDiffusionSpec,
            embed_dim=embed_dim,
            autoencoder=autoencoder,
            text_dim=embed_dim if self.text else 0,
            scale_factor=scale_factor,
            shift=shift,
        )
