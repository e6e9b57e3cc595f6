"""What train_prior supplies to the training loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from models.metrics.intervals import Interval
from models.priors.base import Prior
from models.priors.spec import PriorSpec, TextStateSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs
from models.related import UNRELATED_PAIRS
from models.whole_batch import WholeBatch
from stages.contract.errors import FailureCause
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.measures import Protocol
from stages.formats.clips import Clips, read_clips
from stages.formats.embeddings.layout import TextEncoders, read_text_encoders
from stages.formats.embeddings.reader import first_captions
from stages.formats.gaussians import read_gaussians
from stages.formats.model_folders import save_model
from stages.formats.splits import SplitRecord
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact, Output
from stages.train_prior.config import DiffusionValidationConfig, PriorConfig, TrainedPriorConfig, ValidationConfig
from stages.train_prior.data import Divided, Pairs, load_images, load_pairs
from stages.train_prior.inputs import text_state_names, text_width
from stages.train_prior.plots import plot_by_steps, plot_by_time
from stages.train_prior.validation import Evaluation, device_of, evaluate
from stages.training.config import TrainingConfig
from stages.training.initial_weights import load_initial
from stages.training.measuring import Measured, measure
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds, sample_uniform
from stages.training.task import Batch, BatchPart, RankInfo
from stages.training.validated import validated_images, validated_pairs
from stages.training.whole_batch import whole_batch_of

FOLDER = "prior"
VALIDATION = "validation.json"
STEP = "validation_"
_OF_DATA = ("bank.", "gaussian_weights")  # the Gaussians are those of this experiment's fit


@dataclass
class PriorTask:
    """Training of a prior: on captioned embeddings, on those of images alone, or on the one after the other."""

    config: PriorConfig
    embeddings: Artifact
    gaussians: Artifact | None
    output: Output
    left_out: dict[str, FailureCause] = field(default_factory=dict, init=False)
    split_record: SplitRecord = field(init=False, repr=False, compare=False)
    state: "_State" = field(init=False, repr=False, compare=False)
    _worst: WorstSamples | None = field(default=None, init=False, repr=False, compare=False)
    _validated: int | None = field(default=None, init=False, repr=False, compare=False)
    """Steps after which the weights were that were evaluated last."""

    def setup(self, rank_info: RankInfo) -> None:
        """Read the pairs; every process holds all of them."""
        names = text_state_names(self.config, self.embeddings)
        divided, images = self._load(names)
        train = divided.train
        self.split_record = divided.record
        identities, clips = read_text_encoders(self.embeddings), read_clips(self.embeddings)
        encoders = {name: identities[name] for name in names}
        fitted = None if self.gaussians is None else read_gaussians(self.gaussians)
        spec = self.config.spec(
            embed_dim=train.image.shape[1],
            text_dim=text_width(clips),
            num_gaussians=1 if fitted is None else len(fitted.means),
            text_states={n: TextStateSpec(e.width, e.max_length) for n, e in encoders.items()},
        )
        self.state = _State(
            train,
            divided.held_out,
            divided.held_out_samples,
            clips=clips,
            encoders=encoders,
            order=self._order_of(train),
            images=images,
            images_order=None if images is None else self._order_of(images),
            gaussians=None if fitted is None else (torch.from_numpy(fitted.means), torch.from_numpy(fitted.stds)),
            spec=spec,
            whole_batch=whole_batch_of(rank_info),
        )

    def _load(self, names: Sequence[str]) -> tuple[Divided, Pairs | None]:
        """Return what is trained on at last, and all images to train on where some steps learn without captions."""
        if self.config.learned_from == "images":
            images = load_images(self.config, self.embeddings)
            return images, images.train
        pairs = load_pairs(self.config, self.embeddings, names)
        if self.config.learned_from == "pairs":
            return pairs, None
        return pairs, load_images(self.config, self.embeddings, pairs.held_out_keys).train

    def _order_of(self, pairs: Pairs) -> SampleOrder:
        return SampleOrder([len(pairs)], window_size=len(pairs), seed=self.config.seed)

    def build_model(self) -> Prior:
        """Make the prior with its own Gaussians: untrained, with the statistics of its data, or as another is."""
        state = self.state
        prior: type[Prior] = state.spec.model_class
        images = state.train if state.images is None else state.images
        has_texts = state.spec.text_dim is not None and self.config.learned_from != "images"
        made = prior.for_training(
            state.spec,
            images.image,
            state.train.text,
            state.gaussians,
            captioned=state.train.image_of_each_caption() if has_texts else None,
        )
        made.whole_batch = state.whole_batch
        if isinstance(self.config, TrainedPriorConfig):
            load_initial(made, self.config, own=_OF_DATA, clips=state.clips)
        return made

    def prepare(self, part: BatchPart) -> Batch:
        """Take the pairs of the part, each with one of its captions, and sample times, noise and dropped captions."""
        if self.is_without_captions(part.step):
            return self._prepare_images(part)
        seed, state = self.config.seed, self.state
        rows = torch.from_numpy(state.order.at(part.positions)[:, 1])
        image, text = state.train.take(rows, torch.from_numpy(sample_uniform(seed, part, "caption")))
        return training_batch(image, text, self.random_inputs(sample_seeds(seed, part), text_dropout=self.text_dropout))

    @property
    def text_dropout(self) -> float:
        """Fraction of the captions that are left out."""
        return self.config.text_dropout if isinstance(self.config, TrainedPriorConfig) else 0.0

    def random_inputs(self, seeds: Sequence[int], *, text_dropout: float) -> dict[str, torch.Tensor]:
        """Sample what a training pass takes beside the pairs."""
        return training_random_inputs(self.state.spec, seeds, text_dropout=text_dropout)

    def is_without_captions(self, step: int) -> bool:
        """Tell whether a step learns from images alone."""
        before = self.config.pretraining if isinstance(self.config, TrainedPriorConfig) else None
        return self.config.learned_from == "images" or (before is not None and step < before.num_steps)

    def _prepare_images(self, part: BatchPart) -> Batch:
        """Take the images of the part, every caption left out, whether there is one or not."""
        seed, state = self.config.seed, self.state
        assert state.images is not None
        assert state.images_order is not None
        image = state.images.image[torch.from_numpy(state.images_order.at(part.positions)[:, 1])]
        widths = {name: encoder.width for name, encoder in state.encoders.items()}
        text = TextFeatures.missing(image, widths, text_dim=state.spec.text_dim)
        return training_batch(image, text, self.random_inputs(sample_seeds(seed, part), text_dropout=1.0))

    def prior_of(self, model: Any) -> Prior:
        """Return the prior within what is trained."""
        prior: Prior = model
        return prior

    @property
    def training(self) -> TrainingConfig | None:
        """The training that this is the task of; None: there is nothing to train."""
        return self.config.all_training if isinstance(self.config, TrainedPriorConfig) else None

    def validate(self, model: Any, step: int) -> Sequence[Event]:
        """Evaluate the prior on held-out pairs, in the precision of later use, and write down what was found.

        ``validation.json`` holds the newest evaluation, in the end that of the weights that are kept, and every one
        under ``validation_<step>``; it stays when training is broken off, and goes on when it does.
        """
        config = self.config
        found = self._evaluate(model, step)
        images = []
        if len(found.by_steps) > 1 and config.learned_from != "images":  # the plots are of captions' own images
            images.append(LoggedImage("held_out_by_sampling_steps", plot_by_steps(found), step))
        if found.by_time:
            images.append(LoggedImage("held_out_by_time_step", plot_by_time(found), step))
        metrics = found.metrics()
        return [Metrics(metrics, step, *self._measured(metrics, found.intervals())), *images]

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell that weights may be compared by any metric: none has an adversary's part."""
        return True

    def _measured(self, metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Measured:
        """Return the measures; those of unrelated pairs say which these are, as earlier versions counted all others."""
        unrelated = {name: interval for name, interval in intervals.items() if "unrelated" in name}
        others = {name: interval for name, interval in intervals.items() if name not in unrelated}
        pairs, protocol = len(self.state.held_out), self._protocol()
        found = measure(metrics, others, pairs, protocol)
        of_unrelated = measure(metrics, unrelated, pairs, {**protocol, "unrelated": UNRELATED_PAIRS})
        return Measured(found.measures | of_unrelated.measures, found.protocols | of_unrelated.protocols)

    def _protocol(self) -> Protocol:
        """Return what the figures of pairs depend on beside the prior."""
        encoders = "+".join(self.state.clips.digests)
        return {**self._validated_on, "encoders": encoders, "seed": str(self.config.seed)}

    @cached_property
    def _validated_on(self) -> Protocol:
        """What tells the held-out pairs from others: their images, and their first captions where these are read."""
        samples, pairs = self.state.held_out_samples, self.state.held_out
        keys = [key for _, key in samples]
        if self.config.learned_from == "images":
            return validated_images(keys)
        are_human = pairs.first_are_human()
        texts = {
            (shard, human): first_captions(self.embeddings, shard, human=human)
            for shard, human in {(shard, human) for (shard, _), human in zip(samples, are_human, strict=True)}
        }
        captions = [texts[shard, human][key] for (shard, key), human in zip(samples, are_human, strict=True)]
        return validated_pairs(keys, captions, are_human)

    def _validation_at(self, step: int) -> ValidationConfig:
        """Return what is measured at a step: the curve by sampling steps at the end, the most of them before it.

        Where the best weights are kept, any validation may be the one that counts.
        """
        how, training = self.config.validation, self.training
        if training is None or step >= training.num_steps or training.best is not None:
            return how
        if not isinstance(how, DiffusionValidationConfig):
            return how
        return replace(how, num_steps=how.num_steps[-1:])

    def examine(self, model: Any, step: int) -> None:
        """Evaluate the weights that are kept again, unless they were the last to be validated.

        What ``validation.json`` holds of their step may be of others: training may have rolled back since, with other
        samples; and one that goes on from another's has the best weights of that one, and not what it wrote of them.
        """
        if self._validated != step:
            self._evaluate(model, step)

    def _evaluate(self, model: Any, step: int) -> Evaluation:
        """Evaluate the prior, write down what was found, and keep the pairs of the smallest cosine for :meth:`save`."""
        state, prior, how = self.state, self.prior_of(model), self._validation_at(step)
        with torch.autocast(device_of(prior).type, enabled=False):
            found = evaluate(prior, state.held_out, how, block_dims=state.clips.block_dims, seed=self.config.seed)
        self._validated = step
        self._record(found.to_json(), step)
        if found.cosines is not None:
            distances = (1 - found.cosines).numpy()
            self._worst = WorstSamples.among(state.held_out_samples, distances, step=step, rounds=1)
        return found

    def _record(self, found: Mapping[str, Any], step: int) -> None:
        """Write an evaluation as that of the prior, and all so far by their steps."""
        before = self.output.read_json(VALIDATION) if self.output.exists(VALIDATION) else {}
        earlier = {name: value for name, value in before.items() if name.startswith(STEP)}
        how = {"pairs": len(self.state.held_out), "settings": asdict(self.config.validation)}
        self.output.write_json(VALIDATION, {**how, **found, **earlier, f"{STEP}{step}": found})

    def save(self, model: Any, output: Output) -> None:
        """Write the prior, whole in itself: weights, Gaussians, statistics, settings, the encoders it belongs to."""
        self.split_record.write(output)
        if self._worst is not None:
            self._worst.write(output)
        save_model(output, FOLDER, self.prior_of(model), self.description())

    def description(self) -> dict[str, Any]:
        """Return what is written beside the weights."""
        state = self.state
        encoders = {name: encoder.to_json() for name, encoder in state.encoders.items()}
        return {"model": state.spec.to_dict(), "clip": state.clips.to_json(), "text_encoders": encoders}


@dataclass
class _State:
    """What a task holds in a training process."""

    train: Pairs
    held_out: Pairs
    held_out_samples: Sequence[tuple[str, str]]
    clips: Clips
    encoders: TextEncoders
    order: SampleOrder
    gaussians: tuple[torch.Tensor, torch.Tensor] | None
    spec: PriorSpec
    images: Pairs | None
    """All images to train on, where some steps learn without captions."""
    whole_batch: WholeBatch
    images_order: SampleOrder | None
