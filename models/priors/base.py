"""What every kind of prior offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from models.priors.spec import PriorSampling, PriorSettings
from models.priors.text import TextFeatures

STD_FLOOR = 1e-4  # of a dimension's std, as a fraction of the root mean square of all


class Prior(nn.Module, ABC):
    """From captions to image embeddings; everything that sampling needs is in the state."""

    settings: PriorSettings

    @abstractmethod
    def measure(
        self, image_embeddings: Float[Tensor, "rows embed"], text_embeddings: Float[Tensor, "captions embed"]
    ) -> None:
        """Take what the prior needs to know of the training embeddings; call it once, before training."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss", and maybe its parts, of each pair ([batch]); see :func:`models.priors.training_batch`."""

    @abstractmethod
    def sample(self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling) -> Float[Tensor, "batch embed"]:
        """Return an image embedding for each caption; it depends on the caption and its seed alone.

        Raises:
            ValueError: there is not one seed per caption, or the prior cannot be sampled so.
        """


def require_seeds(text: TextFeatures, seeds: Sequence[int]) -> None:
    """Refuse a number of seeds that is not the number of captions.

    Raises:
        ValueError: the numbers differ.
    """
    if len(seeds) != len(text):
        raise ValueError(f"prior sampling: {len(text)} captions but {len(seeds)} seeds: give one seed per caption")


def require_width(embeddings: Float[Tensor, "rows embed"], embed_dim: int) -> None:
    """Refuse embeddings of another CLIP.

    Raises:
        ValueError: their width is not the prior's.
    """
    if embeddings.shape[-1] != embed_dim:
        raise ValueError(
            f"prior: embeddings of width {embeddings.shape[-1]} were given, but the prior was built for width "
            f"{embed_dim}: embed with the CLIP models that it was trained with"
        )


def require_finite(embeddings: Float[Tensor, "rows embed"]) -> None:
    """Refuse embeddings that hold NaN or infinity.

    Raises:
        ValueError: some do.
    """
    bad = int((~embeddings.isfinite().all(-1)).sum())
    if bad:
        raise ValueError(
            f"prior: {bad} of {len(embeddings)} embeddings hold numbers that are not finite: only finite ones are "
            "allowed: leave them out, or embed again in float32"
        )


def require_embeddings(embeddings: Float[Tensor, "rows embed"], embed_dim: int) -> None:
    """Refuse embeddings of another CLIP, or that hold NaN or infinity.

    Raises:
        ValueError: the width is not the prior's, or some are not finite.
    """
    require_width(embeddings, embed_dim)
    require_finite(embeddings)
