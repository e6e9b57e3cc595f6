"""The spec of a decoder made of a Stable Diffusion checkpoint; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from models.decoders.buckets import Size
from models.decoders.spec import SIZE_NUMBERS, BucketedSpec, EmbeddingDropout
from models.diffusion.spec import Target
from models.fields import Settings, require, require_positive

TARGETS: Final[Mapping[str, Target]] = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample"}
SCHEDULE_FIELDS: Final = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
NUM_TIMESTEPS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class TokenConditioning(EmbeddingDropout):
    """How the embedding enters the checkpoint's U-Net: as tokens in place of the text's."""

    num_tokens: int = 4
    """Tokens that one linear layer makes of the embedding."""
    embedding_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_tokens")


@dataclass(frozen=True, kw_only=True)
class CheckpointProcess(Settings):
    """What is free of the noise process; schedule and target are the checkpoint's."""

    loss_weight: Literal["min_snr", "uniform"] = "uniform"
    """Weight of the error by time."""
    min_snr_gamma: float = 5.0

    def __post_init__(self) -> None:
        require(self, "loss_weight", self.loss_weight in ("min_snr", "uniform"), "min_snr or uniform")
        require(self, "min_snr_gamma", self.min_snr_gamma > 0.0, "above 0")

    def of_loss(self) -> dict[str, Any]:
        """Return what the loss depends on."""
        return self.to_dict() if self.loss_weight == "min_snr" else {"loss_weight": self.loss_weight}


@dataclass(frozen=True, kw_only=True)
class StableDiffusionSpec(BucketedSpec):
    """The checkpoint's own configurations, as diffusers writes them, and how the embedding enters."""

    model: ClassVar[str] = "models.decoders.stable_diffusion.model:StableDiffusionDecoder"
    trained: ClassVar[str] = "models.decoders.stable_diffusion.model:build_training"
    has_first_stage: ClassVar[bool] = True

    kind: Literal["stable_diffusion"] = "stable_diffusion"
    resolution: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    text_dim: int = 0
    conditioning: TokenConditioning = TokenConditioning()
    process: CheckpointProcess = CheckpointProcess()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "resolution")
        require(self, "resolution", self.resolution % self.pixels_per_latent == 0, f"x {self.pixels_per_latent}")
        channels = (self.unet.get("in_channels", 4), self.unet.get("out_channels", 4))
        wanted = self.vae.get("latent_channels", 4)
        require(self, "unet", channels == (wanted, wanted), f"{wanted} channels in and out, as the autoencoder has")
        width = self.unet.get("cross_attention_dim")
        require(self, "unet", isinstance(width, int), "one cross_attention_dim, as SD 1.x and 2.x have")
        target = self.scheduler.get("prediction_type", "epsilon")
        require(self, "scheduler", target in TARGETS, f"prediction_type one of {', '.join(TARGETS)}")
        steps = self.scheduler.get("num_train_timesteps", NUM_TIMESTEPS)
        require(self, "scheduler", steps == NUM_TIMESTEPS, f"num_train_timesteps {NUM_TIMESTEPS}")
        added = self.unet.get("addition_embed_type")
        require(self, "unet", added in (None, "text_time"), "addition_embed_type null, or text_time as SDXL has")
        require(self, "unet", added is None or self.pooled_dim > 0, "a projection_class_embeddings_input_dim for both")
        self.require_buckets()
        knows = added is not None or not self.is_conditioned_on_size
        require(self, "buckets", knows, "size_conditioning false, as the U-Net takes no sizes (SDXL's does)")

    def of_loss(self) -> dict[str, Any]:
        """Return what the loss depends on; the schedule and what is predicted are the checkpoint's."""
        names = (*SCHEDULE_FIELDS, "prediction_type", "rescale_betas_zero_snr")
        return super().of_loss() | {"scheduler": {n: self.scheduler[n] for n in names if n in self.scheduler}}

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one position of the latents stands for."""
        return int(2 ** (len(self.vae.get("block_out_channels", (64,))) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return self.grid_shape((self.resolution, self.resolution))

    @property
    def cell(self) -> int:
        """Pixels that sides must be multiples of: every level of the U-Net but the last halves the latents' grid."""
        return int(self.pixels_per_latent * 2 ** (len(self.unet.get("block_out_channels", (64,) * 4)) - 1))

    def grid_shape(self, size: Size) -> tuple[int, int, int]:
        """Return channels, rows and columns of the latents of images of a width and height."""
        factor = self.pixels_per_latent
        return int(self.vae.get("latent_channels", 4)), size[1] // factor, size[0] // factor

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text embedding that a U-Net as SDXL's takes beside the sizes; 0: it takes neither."""
        if self.unet.get("addition_embed_type") is None:
            return 0
        both, of_number = (
            self.unet.get(name) or 0 for name in ("projection_class_embeddings_input_dim", "addition_time_embed_dim")
        )
        return max(int(both) - SIZE_NUMBERS * int(of_number), 0)

    @property
    def size_features(self) -> int:
        """0: the checkpoint's U-Net makes features of sizes itself, if at all."""
        return 0

    @property
    def token_dim(self) -> int:
        """Width of the tokens that the U-Net attends to."""
        return int(self.unet["cross_attention_dim"])
