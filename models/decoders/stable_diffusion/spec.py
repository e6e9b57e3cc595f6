"""The shape of a decoder made of a Stable Diffusion checkpoint, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from models.diffusion.spec import Target
from models.fields import plain_fields, require

TARGETS: Final[Mapping[str, Target]] = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample"}
SCHEDULE_FIELDS: Final = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
NUM_TIMESTEPS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class StableDiffusionDecoderConfig:
    """The checkpoint's own configurations, in diffusers' words, and how the embedding enters."""

    kind: Literal["stable_diffusion"] = "stable_diffusion"
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    resolution: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    num_tokens: int = 4
    """Tokens that one linear layer makes of the embedding, in place of the text's."""
    text_dim: int = 0
    """Width of the CLIP text embedding that is a condition, too; 0: no texts are read."""
    loss_weight: Literal["min_snr", "uniform"] = "uniform"
    min_snr_gamma: float = 5.0
    empty_probability: float = 0.1
    """Share of embeddings replaced by the learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Deviation of the noise added to standardized embeddings in training, to forgive a prior's errors."""

    def __post_init__(self) -> None:
        """Refuse checkpoints that cannot be trained here, naming the field and what is allowed."""
        for name in ("embed_dim", "resolution", "num_tokens"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "text_dim", self.text_dim >= 0, "0 or more")
        require(self, "resolution", self.resolution % self.pixels_per_latent == 0, f"x {self.pixels_per_latent}")
        channels = (self.unet.get("in_channels", 4), self.unet.get("out_channels", 4))
        wanted = self.vae.get("latent_channels", 4)
        require(self, "unet", channels == (wanted, wanted), f"{wanted} channels in and out, as the autoencoder has")
        width = self.unet.get("cross_attention_dim")
        require(self, "unet", isinstance(width, int), "one cross_attention_dim, as SD 1.x and 2.x have")
        told = self.scheduler.get("prediction_type", "epsilon")
        require(self, "scheduler", told in TARGETS, f"prediction_type one of {', '.join(TARGETS)}")
        steps = self.scheduler.get("num_train_timesteps", NUM_TIMESTEPS)
        require(self, "scheduler", steps == NUM_TIMESTEPS, f"num_train_timesteps {NUM_TIMESTEPS}")

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one place of the latents stands for."""
        return int(2 ** (len(self.vae.get("block_out_channels", (64,))) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        side = self.resolution // self.pixels_per_latent
        return int(self.vae.get("latent_channels", 4)), side, side

    @property
    def token_dim(self) -> int:
        """Width of the tokens that the U-Net attends to."""
        return int(self.unet["cross_attention_dim"])

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**fields)
