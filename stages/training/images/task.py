"""What the training loop needs to train any decoder; a kind adds its model and the random numbers of its loss."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.decoders.base import ConditionedModel, Decoder, to_bytes
from models.decoders.sampling import DecoderSampling
from models.decoders.spec import DecoderSpec
from models.noise import SeededNoise
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.measures import Protocol
from stages.contract.sizing import Shapes
from stages.formats.clips import read_clips
from stages.formats.model_folders import save_model
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Output
from stages.training.images.bucketed import NumbersOf
from stages.training.images.config import ImageTrainingConfig
from stages.training.images.dataset import EmbeddedImages, Indices
from stages.training.images.image_task import ImageTask, stacked_rows
from stages.training.images.shard_images import ImageRows
from stages.training.initial_weights import FIRST_STAGE, load_initial
from stages.training.measuring import mean_intervals, measure
from stages.training.randomness import make_random_inputs, sample_seeds
from stages.training.task import Batch, BatchPart
from stages.training.validated import loss_protocol, validated_images

LOSS_ROUNDS = 4
"""Times that the loss of each sample is computed in the end: at a single noise level it says little of the sample."""


@dataclass
class DecoderTask(ImageTask):
    """Trains a decoder on images and their embeddings.

    A kind says how its model is made (:meth:`make_model`), where the decoder is in it (:meth:`decoder_of`), and what
    random numbers a batch needs (:meth:`random_inputs`); it may read other data (:meth:`read`, :meth:`true_images`).
    """

    folder: ClassVar[str] = "decoder"
    parts: ClassVar[Mapping[str, str]] = {}
    """Files that the task itself writes into the folder before, and that hold the weights of a prefix."""

    config: ImageTrainingConfig
    data: EmbeddedImages = field(init=False, repr=False, compare=False)
    _worst: WorstSamples | None = field(default=None, init=False, repr=False, compare=False)

    @property
    @abstractmethod
    def spec(self) -> DecoderSpec:
        """The spec of what is kept, as config.json holds it."""

    @classmethod
    def planned_module(cls, config: Any, shapes: Shapes) -> nn.Module:
        """Return what would be trained."""
        module: nn.Module = config.spec(shapes.embed_dim).build_training()
        return module

    def make_model(self) -> nn.Module:
        """Return what is trained: ``model(batch)`` returns "loss" [count] and other quantities of each sample."""
        model: nn.Module = self.spec.build_training()
        return model

    def random_inputs(self, part: BatchPart, stream: SeededNoise) -> Batch:
        """Return the random numbers of the part; the stream holds one source of noise for each of its samples."""
        return make_random_inputs(self.spec.random_inputs(), part, stream, self.config.seed)

    def decoder_of(self, model: nn.Module) -> Decoder:
        """Return the decoder within the model."""
        decoder: Decoder = model.decoder  # type: ignore[assignment]
        return decoder

    def saved_module(self, model: nn.Module) -> ConditionedModel:
        """Return the part of the model that holds the embeddings' statistics and is saved: by default the decoder."""
        return self.decoder_of(model)

    def open_data(self) -> EmbeddedImages:
        """Open images and embeddings."""
        return EmbeddedImages(
            self.inputs["download_shards"],
            self.inputs["embed_clip"],
            resolution=self.config.resolution,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
            threads=torch.get_num_threads(),
        )

    def numbers_of(self) -> NumbersOf | None:
        """Return what knows the images' buckets already; None: they are found by the images' sizes."""
        return None

    @property
    def num_held_out(self) -> int:
        """How many images are held out at most."""
        return self.config.held_out_images

    def build_model(self) -> nn.Module:
        """Make the model, whose decoder holds the embeddings' mean and std, or begins as a trained one."""
        model = self.make_model()
        mean, std = self._statistics
        saved = self.saved_module(model)
        saved.set_embedding_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        load_initial(saved, self.config, own=FIRST_STAGE, clips=read_clips(self.inputs["embed_clip"]))
        return model

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return self.data.statistics()

    def read(self, indices: Indices) -> Batch:
        """Read images, as bytes [count, height, width, 3], and embeddings [count, embed]."""
        images, embeddings = self.data.rows(indices)
        return {"images": torch.from_numpy(images), "embeddings": torch.from_numpy(embeddings)}

    def true_images(self, indices: Indices) -> ImageRows:
        """Return the images that the sample grid shows above the generated ones."""
        return self.data.rows(indices)[0]

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Read the samples, and add their random numbers."""
        stream = SeededNoise(sample_seeds(self.config.seed, part))
        return {**self.read(indices), **self.random_inputs(part, stream)}

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Return the held-out loss, and images generated from held-out embeddings below the true ones."""
        outputs = [model(batch) for batch in self.held_out_batches()]
        values = {name: torch.cat([output[name].detach().float().cpu() for output in outputs]) for name in outputs[0]}
        means = {f"held_out_{name}": float(value.mean()) for name, value in values.items()}
        intervals = mean_intervals({"held_out_loss": values["loss"].numpy()}, self.config.seed)
        measured = measure(means, intervals, len(values["loss"]), self._protocol(), rows="images")
        return [Metrics(means, step, *measured), LoggedImage("samples", self.sample_grid(model), step)]

    def _protocol(self) -> Protocol:
        """Return what a held-out loss depends on beside the weights; that of other settings is another figure."""
        return {
            **validated_images(self.data.keys(self.held_out)),
            **loss_protocol(self.loss_settings()),
            "encoders": "+".join(read_clips(self.inputs["embed_clip"]).digests),
            "seed": str(self.config.seed),
        }

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of: what the spec says, and what a kind's own data add."""
        return self.spec.of_loss()

    def sample_grid(self, model: nn.Module) -> bytes:
        """Return a PNG of true images, and below them those generated from their embeddings with fixed noise."""
        indices = self.held_out[: self.config.samples.num_images]
        generated = self.generate_samples(model, indices)
        return stacked_rows(self.true_images(indices), to_bytes(generated.cpu()).numpy())

    def texts_of(self, indices: Indices) -> np.ndarray | None:
        """Return the text embeddings that samples are conditioned on, too; None: on none."""
        return None

    def generate_samples(self, model: nn.Module, indices: Indices) -> Tensor:
        """Generate an image in [-1, 1] from the embeddings of each index."""
        embeddings = torch.from_numpy(self.data.embeddings(indices)).to(self.rank_info.device)
        texts, seeds = self.texts_of(indices), list(range(len(indices)))
        text = None if texts is None else torch.from_numpy(texts).to(self.rank_info.device)
        return self.decoder_of(model).sample(embeddings, seeds, self.sampling_of(indices), text)

    def sampling_of(self, indices: Indices) -> DecoderSampling:
        """Return how images are generated beside these."""
        return self.config.samples

    def examine(self, model: nn.Module, step: int) -> None:
        """Find the held-out samples of the largest loss, which :meth:`save` writes."""
        rounds = []
        for number in range(LOSS_ROUNDS):
            losses = [model(batch)["loss"].detach().float().cpu() for batch in self.held_out_batches(sample=number)]
            rounds.append(torch.cat(losses))
        samples = self.data.samples(np.concatenate(self.together(self.held_out)))  # in the order of the batches
        means = torch.stack(rounds).double().mean(0).numpy()
        self._worst = WorstSamples.among(samples, means, step=step, rounds=LOSS_ROUNDS)

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the decoder's folder: config.json and model.safetensors; and the samples of the largest loss."""
        self.split_record.write(output)
        if self._worst is not None:
            self._worst.write(output)
        own = {"num_images", "size"}
        sampling = {name: value for name, value in asdict(self.config.samples).items() if name not in own}
        spec = self.spec.to_dict()
        record = {
            "kind": spec["kind"],
            "model": spec,
            "clip": read_clips(self.inputs["embed_clip"]).to_json(),
            "sampling": sampling,
        }
        save_model(output, self.folder, self.saved_module(model), record, parts=self.parts)
