"""What the training loop needs to train any decoder; a kind adds its model and the random numbers of its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor, nn

from models.decoders.base import ConditionedModel, Decoder, to_bytes
from models.noise import SeededNoise
from stages.contract.causes import FailureCause
from stages.contract.events import Event, LoggedImage, Metrics
from stages.formats.embeddings import clip_identity
from stages.formats.image_grids import to_png
from stages.formats.model_folders import save_model
from stages.storage.artifact import Artifact, Output
from stages.training.images.config import ImageTrainingConfig
from stages.training.images.dataset import DecoderData
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart, RankInfo

VALIDATION_BATCH = 64
Indices = Int[np.ndarray, "rows 2"]
ImageRows = UInt8[np.ndarray, "rows height width 3"]


@dataclass
class DecoderTask(ABC):
    """Trains on all images but the first few, which are held out.

    A kind says how its model is made (:meth:`make_model`), where the decoder is in it (:meth:`decoder_of`), and what
    random numbers a batch needs (:meth:`random_inputs`); it may read other data (:meth:`read`, :meth:`true_images`).
    """

    folder: ClassVar[str] = "decoder"
    parts: ClassVar[Mapping[str, str]] = {}
    """Files that the task itself writes into the folder before, and that hold the weights of a prefix."""

    config: ImageTrainingConfig
    inputs: Mapping[str, Artifact]
    rank_info: RankInfo = field(default_factory=lambda: RankInfo(0, 1, torch.device("cpu")))
    left_out: dict[str, FailureCause] = field(default_factory=dict, init=False)

    @abstractmethod
    def make_model(self) -> nn.Module:
        """Make what is trained: ``model(batch)`` returns "loss" [count] and other quantities of each sample."""

    @abstractmethod
    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Draw the random numbers of the part; the stream holds one source of noise for each of its samples."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the decoder's own configuration, JSON-ready, kind included."""

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the decoder within the model."""
        decoder: Decoder = model.decoder  # type: ignore[assignment]
        return decoder

    def saved_module(self, model: nn.Module) -> ConditionedModel:
        """Return what is told the embeddings' statistics and is kept at the end: the decoder, unless a task says so."""
        return self.decoder_of(model)

    def setup(self, rank_info: RankInfo) -> None:
        """Open the data and fix the order of samples.

        Raises:
            InputFault: the images are smaller than they are to be trained on, or some are not there.
        """
        self.rank_info = rank_info
        self.data = DecoderData(
            self.inputs["download_shards"],
            self.inputs["embed_clip"],
            resolution=self.config.resolution,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
            threads=torch.get_num_threads(),
        )
        sizes = np.array(self.sizes())
        num_held = max(1, min(self.config.held_out_images, int(sizes.sum()) // 10))
        held = np.clip(num_held - (np.cumsum(sizes) - sizes), 0, sizes)  # the first rows of the first shards
        self._first_row = held
        indices = [np.stack([np.full(count, shard), np.arange(count)], 1) for shard, count in enumerate(held)]
        self._held_out: Indices = self.rows_at(np.concatenate(indices))
        self._order = SampleOrder((sizes - held).tolist(), self.data.window_size, self.config.seed)
        self.check_data()

    def check_data(self) -> None:
        """Look at the first shard: are its images large enough?

        Raises:
            InputFault: they are not.
        """
        where = f"{self.config.stage}.resolution"
        self.data.images.require_resolution(self.data.names[0], where)

    def build_model(self) -> nn.Module:
        """Make the model, whose decoder knows the embeddings' mean and deviation."""
        model = self.make_model()
        mean, std = self._statistics
        self.saved_module(model).set_embedding_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        return model

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return self.data.statistics()

    def prepare(self, part: BatchPart) -> Batch:
        """Read the part's samples, and draw their random numbers."""
        indices = self._order.at(part.positions)
        indices[:, 1] += self._first_row[indices[:, 0]]
        return self.batch(self.rows_at(indices), part)

    def sizes(self) -> list[int]:
        """Return how many images of each shard are trained on, held-out ones among them."""
        return self.data.sizes

    def rows_at(self, indices: Indices) -> Indices:
        """Return the (shard, row) indices of images that are counted among those trained on: the same, if all are."""
        return indices

    def read(self, indices: Indices) -> Batch:
        """Read images, as bytes [count, height, width, 3], and embeddings [count, embed]."""
        images, embeddings = self.data.rows(indices)
        return {"images": torch.from_numpy(images), "embeddings": torch.from_numpy(embeddings)}

    def true_images(self, indices: Indices) -> ImageRows:
        """Return the images that the sample grid shows above the drawn ones."""
        return self.data.rows(indices)[0]

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Join what is read of the samples with their random numbers."""
        stream = SeededNoise(sample_seeds(self.config.seed, part))
        return {**self.read(indices), **self.random_inputs(part, stream)}

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Return the held-out loss, and images drawn from held-out embeddings below the true ones."""
        values = [self._held_out_values(model, start) for start in range(0, len(self._held_out), VALIDATION_BATCH)]
        means = {f"held_out_{name}": float(torch.cat([v[name] for v in values]).mean()) for name in values[0]}
        return [Metrics(means, step), LoggedImage("samples", self.sample_grid(model), step)]

    def _held_out_values(self, model: nn.Module, start: int) -> dict[str, Tensor]:
        indices = self._held_out[start : start + VALIDATION_BATCH]
        batch = self.batch(indices, BatchPart(0, start, len(indices), len(self._held_out)))
        values: dict[str, Tensor] = model({name: tensor.to(self.rank_info.device) for name, tensor in batch.items()})
        return {name: value.detach().float().cpu() for name, value in values.items()}

    def sample_grid(self, model: nn.Module) -> bytes:
        """Return a PNG of true images, and below them those drawn from their embeddings by fixed noise."""
        indices = self._held_out[: self.config.samples.num_images]
        generated = self.generate_samples(model, indices)
        images = to_bytes(generated.cpu()).numpy()
        rows = [np.concatenate(list(row), axis=1) for row in (self.true_images(indices), images)]
        return to_png(Image.fromarray(np.concatenate(rows)))

    def generate_samples(self, model: nn.Module, indices: Indices) -> Tensor:
        """Draw an image in [-1, 1] for the embedding of each index."""
        embeddings = torch.from_numpy(self.data.embeddings(indices)).to(self.rank_info.device)
        settings = self.config.samples
        return self.decoder_of(model).sample(embeddings, list(range(len(indices))), settings)

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the decoder's folder: config.json and model.safetensors."""
        sampling = {name: value for name, value in asdict(self.config.samples).items() if name != "num_images"}
        config = self.record()
        record = {
            "kind": config["kind"],
            "model": config,
            "clip": clip_identity(self.inputs["embed_clip"]),
            "sampling": sampling,
        }
        save_model(output, self.folder, self.saved_module(model), record, parts=self.parts)
