"""What the sides of ``benchmarks.decoder`` are given."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.sides.serving import SideCase
from pipeline.config.loading import load_config
from stages.storage.artifact import Artifact
from stages.train_decoder.image_config import ImageDecoderConfig
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig


@dataclass(frozen=True, kw_only=True)
class Case(SideCase):
    """One comparison; ``warmup`` steps before the measured ones are not counted."""

    folder: str  # with the shards and the embeddings
    config: str
    latents_config: str
    steps: int
    warmup: int

    @property
    def inputs(self) -> dict[str, Artifact]:
        """The shards and their embeddings."""
        names = ("download_shards", "embed_clip")
        return {name: Artifact(str(Path(self.folder) / name), name, "bench") for name in names}

    @property
    def num_steps(self) -> int:
        """Steps of one training, the uncounted ones included."""
        return self.warmup + self.steps

    def decoder(self) -> ImageDecoderConfig:
        """Return the decoder's section, with the steps of this case and nothing beside them to do."""
        section = load_config(self.config, self._overrides()).train_decoder
        assert isinstance(section, ImageDecoderConfig)
        return section

    def latent_decoder(self) -> LatentDiffusionConfig:
        """Return the section of the decoder of latents."""
        section = load_config(self.latents_config).train_decoder
        assert isinstance(section, LatentDiffusionConfig)
        return section

    def _overrides(self) -> list[str]:
        training = {
            "num_steps": self.num_steps,
            "log_interval": self.warmup,
            "warmup_steps": 1,
            "checkpoint_interval": self.num_steps + 1,
            "validation_interval": "null",
        }
        other = ["train_decoder.held_out_images=8", "train_decoder.samples.num_images=1"]
        return [f"train_decoder.training.{name}={value}" for name, value in training.items()] + other
