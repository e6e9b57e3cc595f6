"""What a server's process of the model does: load it, and compute batches so that no image depends on its neighbours.

Each batch has the same size, filled up with copies where fewer requests wait: the same kernels run on it, and a row
comes out the same to the last bit whatever the other rows are. Whether it does so in every row is tried at the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from cluster.serve import Compute
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from stages.inference.text_to_image import TextToImageSystem


@dataclass(frozen=True)
class Wanted:
    """One image that a client wants."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Made:
    """An image, the run whose model made it, and the sampling settings."""

    image: UInt8[np.ndarray, "height width 3"]
    run: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """Where the model is: a run of a store, or an exported folder; pickled into the process that loads it."""

    store: str
    name: str
    batch_size: int

    def __call__(self) -> Compute:
        """Load the model, make a first batch, and return what computes batches.

        Raises:
            UsageError: the model makes no images of prompts, or its images depend on their row in a batch.
            StageError: the models are damaged, or of another version.
        """
        from pipeline.generation.models import open_system
        from pipeline.store import Store

        system, run = open_system(Store(self.store), self.name, batch_size=self.batch_size)
        settings = system.settings.flat()
        self._require_alike_rows(system)

        def compute(wanted: Sequence[Wanted]) -> list[Made]:
            full = [*wanted, *[wanted[0]] * (self.batch_size - len(wanted))]
            images = system.generate([one.prompt for one in full], [one.seed for one in full])
            return [Made(image, run, settings) for image in images[: len(wanted)]]

        return compute

    def _require_alike_rows(self, system: "TextToImageSystem") -> None:
        try:
            while not system.rows_agree() and system.batch_size > 1:
                system.batch_size //= 2
        except ValueError as error:  # the prior knows no captions
            raise UsageError(f"serve: {error}") from None
        if system.batch_size < self.batch_size:
            raise UsageError(
                f"--batch-size: found {self.batch_size}, with which an image depends on its row in a batch on this "
                f"device; give {system.batch_size}, with which it does not"
            )
