"""What a server's process of the model does: load it, and compute batches so that no image depends on its neighbours.

Each batch has the same size, filled up with copies where fewer requests wait: the same kernels run on it, and a row
comes out the same to the last bit whatever the other rows are. Whether it does so in every row is tried at the start.
A prior that reads token states, whose number depends on the longest prompt, samples each prompt by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from cluster.serve import Compute
from models.decoders.buckets import size_name
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from stages.inference.text_to_image import TextToImageSystem


@dataclass(frozen=True)
class Wanted:
    """One image that a client wants."""

    prompt: str
    seed: int
    size: str | None = None
    """Width and height, such as 96x64; None: that of the run's settings."""


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
        self._require_alike_rows(system)

        def compute(wanted: Sequence[Wanted]) -> list[Made]:
            made: dict[int, Made] = {}
            for size in dict.fromkeys(one.size for one in wanted):
                of_size = system if size is None else system.with_settings({"decoder_size": size})
                rows = [row for row, one in enumerate(wanted) if one.size == size]
                full = [wanted[row] for row in rows] + [wanted[rows[0]]] * (self.batch_size - len(rows))
                images = of_size.generate_independently([one.prompt for one in full], [one.seed for one in full])
                settings = of_size.settings.flat()
                made |= {row: Made(image, run, settings) for row, image in zip(rows, images, strict=False)}
            return [made[row] for row in range(len(wanted))]

        return compute

    def _require_alike_rows(self, system: "TextToImageSystem") -> None:
        try:
            for size in system.sizes if len(system.sizes) > 1 else (None,):
                of_size = system if size is None else system.with_settings({"decoder_size": size_name(size)})
                while not of_size.rows_agree() and of_size.batch_size > 1:
                    of_size.batch_size //= 2
                system.batch_size = min(system.batch_size, of_size.batch_size)
        except ValueError as error:  # the prior knows no captions
            raise UsageError(f"serve: {error}") from None
        if system.batch_size < self.batch_size:
            raise UsageError(
                f"--batch-size: found {self.batch_size}, with which an image depends on its row in a batch on this "
                f"device; give {system.batch_size}, with which it does not"
            )
