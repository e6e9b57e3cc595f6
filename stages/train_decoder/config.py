"""The kinds of decoders that can be trained: the section and the task of each, found here and nowhere else.

A kind that trains on images and embeddings needs no line of its own: its spec in models/decoders says everything.
"""

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, Union

from pydantic import Field

from models.decoders.registry import SPECS
from stages.train_decoder.base_config import DecoderConfig
from stages.train_decoder.image_config import image_section
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.train_decoder.stable_diffusion.config import StableDiffusionConfig
from stages.train_decoder.stylegan2.config import StyleGan2DecoderConfig
from stages.train_decoder.vq_autoregressive.config import VQAutoregressiveConfig


class Kind(NamedTuple):
    """How a kind is configured and trained."""

    section: type[DecoderConfig]
    task: str
    """Where its task is, as `module:class`: it is imported where it is trained only."""

    @property
    def package(self) -> str:
        """The package of its task, and of its check if it has one."""
        return self.task.partition(":")[0].rpartition(".")[0]


_HERE = "stages.train_decoder"
_OWN: Final[dict[str, Kind]] = {
    "latent_diffusion": Kind(LatentDiffusionConfig, f"{_HERE}.latent_diffusion.task:LatentDiffusionTask"),
    "stable_diffusion": Kind(StableDiffusionConfig, f"{_HERE}.stable_diffusion.task:StableDiffusionTask"),
    "vq_autoregressive": Kind(VQAutoregressiveConfig, f"{_HERE}.vq_autoregressive.task:VQAutoregressiveTask"),
    "stylegan2": Kind(StyleGan2DecoderConfig, f"{_HERE}.stylegan2.task:StyleGan2Task"),
}
KINDS: Final[dict[str, Kind]] = {
    kind: _OWN.get(kind) or Kind(image_section(spec, __name__), f"{_HERE}.task:ImageDecoderTask")
    for kind, spec in SPECS.items()
}
globals().update({kind.section.__name__: kind.section for kind in KINDS.values()})  # pickle finds classes by name

if TYPE_CHECKING:
    TrainDecoderConfig = DecoderConfig
else:
    TrainDecoderConfig = Annotated[
        Union[tuple(kind.section for kind in KINDS.values())], Field(discriminator="kind")  # noqa: UP007
    ]  # fmt: skip
