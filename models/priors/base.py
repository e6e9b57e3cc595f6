"""What every kind of prior offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.noise import SeededNoise
from models.normalization import Normalization
from models.priors.spec import PriorSampling, PriorSpec
from models.priors.text import TextFeatures
from models.whole_batch import ALONE, WholeBatch

STD_FLOOR = 1e-4  # of a dimension's std, as a fraction of the root mean square of all

Rows = Float[Tensor, "rows embed"]
Captions = Float[Tensor, "captions text"]
Embeddings = Float[Tensor, "batch embed"]
OnStep = Callable[[int, float, Tensor, Tensor], None]
"""Takes the number of the step, from 0, its time as a number from 0 to T (on the path flow rarely a whole one), z_t and
the prediction of z_0, both [batch, embed]."""


class Prior(nn.Module, ABC):
    """From captions to image embeddings; everything that sampling needs is in the state."""

    spec: PriorSpec
    whole_batch: WholeBatch = ALONE
    """What a loss that compares pairs takes all pairs of the batch from; what trains on several processes sets it."""

    def __init__(self, spec: PriorSpec) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def for_training(
        cls,
        spec: PriorSpec,
        images: Rows,
        texts: Captions,
        gaussians: tuple[Tensor, Tensor] | None,
        *,
        captioned: Rows | None = None,
    ) -> Self:
        """Return an untrained prior with the statistics of the training embeddings and, if it has any, its Gaussians.

        ``gaussians`` are means and standard deviations of the fitted ones. ``captioned`` holds the image of each text
        where the two are of different spaces (``spec.text_dim``), and there are texts.
        """
        prior = cls(spec)
        prior.measure(images, texts)
        return prior

    @classmethod
    def random_inputs(cls, spec: PriorSpec, streams: SeededNoise, *, text_dropout: float) -> dict[str, Tensor]:
        """Return the random numbers of one training pass; see :func:`models.priors.training.training_random_inputs`."""
        uniform = streams.uniform((2,), dtype=torch.float64)  # [batch, 2]; the first is the time of a diffusion
        return {"drop_text": uniform[:, 1] < text_dropout}

    @property
    def scales(self) -> tuple[Normalization, Normalization] | None:
        """Mean and standard deviation of the images and of the captions that it learned from; None: it has none."""
        return None

    @abstractmethod
    def measure(self, images: Rows, texts: Captions) -> None:
        """Take what the prior needs of the training embeddings; call it once, before training."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss", and maybe its parts, of each pair ([batch]); see
        :func:`models.priors.training.training_batch`.
        """

    @abstractmethod
    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return an image embedding for each caption; it depends on the caption and its seed alone.

        ``on_step`` is called once at every step of a process; a prior without one never calls it.
        """

    def sample_unconditional(
        self, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return an image embedding for each seed, without a caption; there is nothing that guidance could do.

        Raises:
            ValueError: the prior has not learned without captions.
        """
        if not self.spec.is_unconditional:
            raise ValueError(
                f"prior of kind {self.spec.kind}: was trained on captioned images alone: expected one that learned "
                "without captions: train it with train_prior.pretraining, or with text_dropout: 1"
            )
        return self._sample_unconditional(seeds, sampling, on_step)

    def _sample_unconditional(
        self, seeds: Sequence[int], sampling: PriorSampling, on_step: OnStep | None
    ) -> Embeddings:
        """Sample without a caption; a kind whose spec ``learns_from_images`` has it."""
        raise NotImplementedError


def require_seeds(text: TextFeatures, seeds: Sequence[int]) -> None:
    """Refuse a number of seeds that is not the number of captions."""
    if len(seeds) != len(text):
        raise ValueError(f"prior sampling: {len(text)} captions but {len(seeds)} seeds: give one seed per caption")


def require_captions(spec: PriorSpec) -> None:
    """Refuse to sample for captions from a prior that has never seen one."""
    if spec.learned_from == "images":
        raise ValueError(
            f"prior of kind {spec.kind}: was trained without captions (text_dropout: 1): expected no prompts: sample "
            "without them, or train it on captioned images"
        )


def require_width(embeddings: Rows, embed_dim: int) -> None:
    """Refuse embeddings of another CLIP."""
    if embeddings.shape[-1] != embed_dim:
        raise ValueError(
            f"prior: embeddings of width {embeddings.shape[-1]} were given, but the prior was built for width "
            f"{embed_dim}: embed with the CLIP models that it was trained with"
        )


def require_finite(embeddings: Rows) -> None:
    """Refuse embeddings that hold NaN or infinity, or whose length float32 has no number for."""
    bad = int((~embeddings.float().norm(dim=-1).isfinite()).sum())
    if bad:
        raise ValueError(
            f"prior: {bad} of {len(embeddings)} embeddings hold numbers that are not finite, or too large for their "
            "length in float32: only finite ones are allowed: leave them out, or embed again in float32"
        )


def require_embeddings(embeddings: Rows, embed_dim: int) -> None:
    """Refuse embeddings of another CLIP, or that hold NaN or infinity."""
    require_width(embeddings, embed_dim)
    require_finite(embeddings)
