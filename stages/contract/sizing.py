"""What a stage may ask of an experiment to say which network it would train, before there is any data."""

from collections.abc import Callable, Mapping
from typing import Protocol

from models.autoencoders.spec import AutoencoderSpec


class Unknown(Exception):
    """A size that the configuration alone does not say; the message is the reason."""


class Shapes(Protocol):
    """Widths that the stages before a training stage will have; each raises :class:`Unknown` where it is not known."""

    @property
    def embed_dim(self) -> int:
        """Width of an image embedding, all CLIP models together, or of the encoder in their place."""

    @property
    def text_dim(self) -> int | None:
        """Width of a text embedding where images are embedded by another encoder; None: by the CLIP models, too."""

    @property
    def autoencoder(self) -> AutoencoderSpec:
        """The first stage."""

    @property
    def num_gaussians(self) -> int:
        """Size of the Gaussian bank."""

    @property
    def text_states(self) -> Mapping[str, Callable[[], tuple[int, int]]]:
        """Width and largest length of the text states that are made, by encoder."""
