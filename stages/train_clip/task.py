"""What train_clip supplies to the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from stages.contract.errors import InputFault
from stages.contract.events import Event, Metrics
from stages.contract.measures import Protocol
from stages.encoders.open_clip_import import import_open_clip
from stages.formats.clip_folders import local_tokenizer, write_clip
from stages.storage.artifact import Output
from stages.train_clip.augmentation import augment
from stages.train_clip.config import TrainClipConfig
from stages.train_clip.data import CaptionedImages
from stages.train_clip.model import ContrastiveClip
from stages.train_clip.probes import Encoders, Hits, fractions, probe_scenes, retrieval
from stages.training.images.augmentation import augmented
from stages.training.images.dataset import Indices
from stages.training.images.image_task import ImageTask, Positions
from stages.training.initial_weights import load_initial_clip
from stages.training.measuring import Measured, mean_intervals, measure
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds, sample_uniform
from stages.training.task import Batch, BatchPart, RankInfo
from stages.training.validated import validated_pairs
from stages.training.whole_batch import whole_batch_of

_CHUNK = 256
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_MAX_VALIDATION_PAIRS = 1000


@dataclass
class ClipTask(ImageTask):
    """Trains a CLIP model on the captioned images of the shards; those that cannot be decoded are left out.

    The loss is that of the whole batch on any number of workers; batch norm, in a ResNet, takes its statistics of each
    worker's own part of it.
    """

    skips_unreadable = True

    config: TrainClipConfig
    output: Output = field(kw_only=True)
    vocab_size: int = field(kw_only=True)
    data: CaptionedImages = field(init=False, repr=False, compare=False)

    def open_data(self) -> CaptionedImages:
        """List the captioned images."""
        return CaptionedImages(
            self.inputs,
            self.config.captions,
            image_size=self.config.image_size,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
            threads=torch.get_num_threads(),
        )

    def setup(self, rank_info: RankInfo) -> None:
        """List the captioned images and open the tokenizer."""
        super().setup(rank_info)
        open_clip = import_open_clip()
        self._tokenizer: Callable[[list[str]], Tensor] = open_clip.tokenizer.HFTokenizer(
            str(local_tokenizer(self.output)), context_length=self.config.context_length
        )
        scaled = preprocess_config(self.config) | {"mean": _ZERO, "std": _ONE}  # colours stay k / 255, to be kept as k
        self._preprocess: Callable[[Image.Image], Tensor] = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**scaled), is_train=False
        )

    def split(self) -> None:
        """Hold out what the experiment's split does; an epoch is a random order of all others."""
        self._train, held_out, self.split_record = self.data.split(self.config.split)
        self._held_out = held_out[:_MAX_VALIDATION_PAIRS]
        self._order = SampleOrder([len(self._train)], len(self._train), self.config.seed)

    def samples_at(self, positions: Positions) -> Indices:
        """Return the pairs at these positions of the endless sequence of training pairs."""
        indices: Indices = self._train[self._order.at(positions)[:, 1]]
        return indices

    def check_data(self) -> None:
        """Accept images of any size: open_clip's transform scales them."""

    def build_model(self) -> nn.Module:
        """Make the open_clip model, with random weights or those to begin with."""
        open_clip = import_open_clip(with_timm="timm_model_name" in self.config.architecture.vision_cfg)
        try:
            # a scale of shape [1], for DeepSpeed cannot broadcast weights without an axis
            clip = open_clip.CLIP(**model_config(self.config, self.vocab_size), nonscalar_logit_scale=True)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputFault(
                f"train_clip.architecture: open_clip cannot build the model ({error}): give embed_dim, vision_cfg and "
                "text_cfg as in one of open_clip's model configs"
            ) from error
        load_initial_clip(clip, self.config)
        return ContrastiveClip(
            clip, max_logit_scale=self.config.max_logit_scale, label_smoothing=self.config.label_smoothing,
            whole_batch=whole_batch_of(self.rank_info),
        )  # fmt: skip

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Decode and tokenize the pairs."""
        pixels = self._pixels(indices)
        captions = self.data.captions(indices, sample_uniform(self.config.seed, part, "caption"))
        return {"pixels": pixels, "tokens": self._tokenizer(captions)}

    def augment(self, batch: Batch, part: BatchPart) -> Batch:
        """Change the preprocessed images at random."""
        pixels, changes = batch["pixels"], self.config.augmentation
        if changes.changes:
            pixels = augmented(pixels, part, changes, self.config.seed)
        seeds = sample_seeds(self.config.seed, part)
        return {**batch, "pixels": augment(pixels, seeds, changes, self.config.preprocessing)}

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Retrieve held-out pairs; classify held-out scenes if the images are scenes."""
        encoders = self._encoders(model)
        chunks = np.split(self.held_out, range(_CHUNK, len(self.held_out), _CHUNK))
        z_image = torch.cat([self._embed(model, self._pixels(chunk)) for chunk in chunks])
        captions = self.data.captions(self.held_out)
        hits, seed = retrieval(z_image, encoders.texts(captions), captions), self.config.seed
        are_human = self.data.are_human(self.held_out).tolist()
        common = {**validated_pairs(self.data.keys(self.held_out), captions, are_human), "seed": str(seed)}
        found = _measure(hits, seed, common, "pairs")
        if (probe := self.config.scene_probe) is not None:
            hits |= (scenes := probe_scenes(encoders, probe))
            probed = _measure(scenes, seed, {"scenes": f"held out, of seed {probe.seed}"}, "images")
            found = Measured(found.measures | probed.measures, found.protocols | probed.protocols)
        return [Metrics(fractions(hits), step, *found)]

    def _encoders(self, model: Any) -> Encoders:
        device = next(model.parameters()).device

        def images(images: Tensor) -> Tensor:
            squares = [self._square(Image.fromarray(image.numpy())) for image in images]
            return self._embed(model, self._normalise(np.stack(squares)))

        def texts(captions: Sequence[str]) -> Tensor:
            chunks = [self._tokenizer(list(chunk)).to(device) for chunk in _chunks(captions)]
            return torch.cat([F.normalize(model.clip.encode_text(chunk).float(), dim=-1) for chunk in chunks])

        return Encoders(images, texts, self.config.image_size)

    def _pixels(self, indices: Indices) -> Float[Tensor, "batch 3 size size"]:
        return self._normalise(self.data.read_as(self._square, indices))

    def _square(self, image: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
        """Return what the model takes, before its colours are normalised: a quarter of the memory."""
        return self._preprocess(image).mul(255).round().byte().movedim(0, -1).contiguous().numpy()

    def _normalise(self, squares: UInt8[np.ndarray, "batch size size 3"]) -> Float[Tensor, "batch 3 size size"]:
        """Return (k / 255 - mean) / std, as open_clip computes it."""
        mean, std = (torch.tensor(getattr(self.config.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
        return torch.from_numpy(squares).movedim(-1, 1).contiguous().float().div_(255).sub_(mean).div_(std)

    def _embed(self, model: Any, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch embed"]:
        weight = next(model.parameters())
        z: Tensor = model.clip.encode_image(pixels.to(weight.device, weight.dtype))
        normalised: Tensor = F.normalize(z.float(), dim=-1)
        return normalised

    def examine(self, model: Any, step: int) -> None:
        """Find nothing: no file beside the weights depends on them."""

    def save(self, model: Any, output: Output) -> None:
        """Write open_clip's own folder format, beside the tokenizer that is there already."""
        self.split_record.write(output)
        dtype = torch.float16 if self.config.store_float16 else torch.float32
        weights = {
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in model.clip.state_dict().items()
        }
        weights["logit_scale"] = weights["logit_scale"].reshape(())  # as open_clip stores it
        config = {
            "model_cfg": model_config(self.config, self.vocab_size), "preprocess_cfg": preprocess_config(self.config)
        }  # fmt: skip
        write_clip(output, weights, config)


def _measure(hits: Hits, seed: int, protocol: Protocol, rows: str) -> Measured:
    intervals = mean_intervals({name: hit.numpy() for name, hit in hits.items()}, seed, are_fractions=True)
    return measure(fractions(hits), intervals, len(next(iter(hits.values()))), protocol, rows=rows)


def model_config(config: TrainClipConfig, vocab_size: int) -> dict[str, Any]:
    """Return open_clip's model_cfg."""
    text = config.architecture.text_cfg | {
        "context_length": config.context_length,
        "vocab_size": vocab_size,
        "hf_tokenizer_name": ".",  # open_clip then reads the tokenizer from the model's own folder
    }
    return {
        "embed_dim": config.architecture.embed_dim,
        "vision_cfg": dict(config.architecture.vision_cfg),
        "text_cfg": text,
    }


def preprocess_config(config: TrainClipConfig) -> dict[str, Any]:
    """Return open_clip's preprocess_cfg."""
    return {
        "size": [config.image_size, config.image_size],
        "mode": "RGB",
        **config.preprocessing.model_dump(mode="json"),
    }


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
