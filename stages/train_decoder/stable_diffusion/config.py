"""Which Stable Diffusion checkpoint is fine-tuned, and how."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.decoders.stable_diffusion.spec import CheckpointProcess, StableDiffusionSpec, TokenConditioning
from stages.contract.bounds import Count, Pixels
from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly, spec_from
from stages.contract.digests import content_digest
from stages.train_decoder.base_config import TextTunedConfig
from stages.training.config import TrainingConfig
from stages.training.images.config import SamplesConfig

USED_PARTS = ("unet", "vae", "scheduler")


class FullTuning(ConfigModel):
    """Train all weights of the U-Net."""

    kind: Literal["full"]


class LoraTuning(ConfigModel):
    """Train low-rank additions to the attention's layers (Hu et al., arXiv 2106.09685), and the embedding's layer."""

    kind: Literal["lora"]
    rank: Count = 16
    alpha: Count | None = Field(None, description="the additions count alpha / rank; null: rank")
    layers: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), min_length=1, description="names of the layers, as diffusers has them"
    )


class StableDiffusionConfig(TextTunedConfig):
    """Fine-tune a Stable Diffusion 1.x, 2.x or XL checkpoint on all images."""

    code_version: ClassVar[int] = 4

    kind: Literal["stable_diffusion"]
    path: Annotated[ExternalPath | None, RuntimeOnly()] = Field(
        None, description="folder of the checkpoint in diffusers' format, with weights as safetensors"
    )
    name: str | None = Field(None, description="or its name on the Hugging Face hub")
    resolution: Pixels = Field(512, description="side of the images in pixels; that of encode_latents")
    tuning: Annotated[FullTuning | LoraTuning, Field(discriminator="kind")] = FullTuning(kind="full")
    conditioning: TokenConditioning = TokenConditioning()
    process: CheckpointProcess = CheckpointProcess()
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")
    training: TrainingConfig = TrainingConfig(
        num_steps=20_000, batch_size=64, learning_rate=1e-5, weight_decay=0.01, warmup_steps=500, ema_decay=0.9999
    )
    samples: SamplesConfig = SamplesConfig(num_steps=25, guidance_scale=2.0)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, and the latents of the checkpoint's own autoencoder."""
        return ("download_shards", "embed_clip", "encode_latents")

    @property
    def source(self) -> str:
        """The checkpoint's folder or name, as diffusers takes it."""
        return self.name or str(self.path)

    @model_validator(mode="after")
    def _one_source(self) -> "StableDiffusionConfig":
        if (self.path is None) == (self.name is None):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"found {found} path and name: allowed is one: the checkpoint's folder, or its hub name")
        return self

    def spec(self, embed_dim: int, parts: Mapping[str, Mapping[str, Any]]) -> StableDiffusionSpec:
        """Return the decoder's spec, for embeddings of that width and the checkpoint's unet, vae and scheduler."""
        own = {part: parts[part] for part in USED_PARTS}
        return spec_from(self, StableDiffusionSpec, embed_dim=embed_dim, text_dim=embed_dim if self.text else 0, **own)

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on: of a checkpoint's folder, the parts that are used."""
        if self.path is None:
            return super().identity()
        return super().identity() | {"path": {part: content_digest(self.path / part) for part in USED_PARTS}}
