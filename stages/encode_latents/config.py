"""Which autoencoder encodes the images, and how the latents are kept."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.decoders.buckets import BucketSettings
from stages.contract.bounds import Count, Pixels
from stages.contract.config import ExternalPath, RuntimeOnly
from stages.contract.digests import content_digest
from stages.contract.stage import StageConfig

VAE = "vae"


class EncodeLatentsBase(StageConfig):
    """Options of both kinds."""

    stage: ClassVar[str] = "encode_latents"
    grows: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        "bfloat16", description="of the arithmetic on a GPU; on a CPU it is float32"
    )
    batch_size: Annotated[Count, RuntimeOnly()] = Field(32, description="images at a time")
    buckets: BucketSettings | None = Field(
        None,
        description="those of train_decoder, whose images are encoded at the sizes of their buckets; null: squares",
    )

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; buckets count where there are some."""
        identity = super().identity()
        if self.buckets is None:
            del identity["buckets"]
        return identity


class EncodeByAutoencoder(EncodeLatentsBase):
    """Encode by the autoencoder that train_autoencoder made, at its own resolution."""

    kind: Literal["autoencoder"]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and the autoencoder."""
        return ("download_shards", "train_autoencoder")


class EncodeByStableDiffusion(EncodeLatentsBase):
    """Encode by the autoencoder of a Stable Diffusion checkpoint in diffusers' format."""

    kind: Literal["stable_diffusion"]
    path: Annotated[ExternalPath | None, RuntimeOnly()] = Field(
        None, description="folder of the checkpoint, which holds a folder vae"
    )
    name: str | None = Field(None, description="or its name on the Hugging Face hub")
    resolution: Pixels = Field(512, description="side of the images in pixels")

    @model_validator(mode="after")
    def _one_source(self) -> "EncodeByStableDiffusion":
        if (self.path is None) == (self.name is None):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"found {found} path and name: allowed is one of them, where the checkpoint can be found")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images."""
        return ("download_shards",)

    @property
    def streams_from(self) -> tuple[str, ...]:
        """A shard is encoded as soon as it is downloaded."""
        return self.inputs

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on: of a checkpoint's folder, its autoencoder alone."""
        return super().identity() | ({} if self.path is None else {"path": content_digest(self.path / VAE)})


EncodeLatentsConfig = Annotated[EncodeByAutoencoder | EncodeByStableDiffusion, Field(discriminator="kind")]
