"""What train_clip supplies to the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from models.noise import seeded_noise
from stages.contract.causes import FailureCause
from stages.contract.errors import InputFault
from stages.contract.events import Event, Metrics
from stages.encoders.open_clip_import import import_open_clip
from stages.storage.artifact import Artifact, Output
from stages.train_clip.config import FOLDER, ClipAugmentation, TrainClipConfig
from stages.train_clip.data import CaptionedImage, list_captioned, split_held_out
from stages.train_clip.model import ContrastiveClip
from stages.train_clip.probes import Encoders, probe_scenes, retrieval
from stages.training.order import SampleOrder
from stages.training.randomness import sample_seeds
from stages.training.task import Batch, BatchPart, RankInfo

_CHUNK = 256
_MAX_VALIDATION_PAIRS = 1000


@dataclass
class ClipTask:
    """Training of a CLIP model on the captioned images of the shards."""

    config: TrainClipConfig
    shards: Artifact
    output: Output
    vocab_size: int
    left_out: dict[str, FailureCause] = field(default_factory=dict, init=False)
    _state: "_State | None" = field(default=None, init=False)

    def setup(self, rank_info: RankInfo) -> None:
        """List the captioned images and open the tokenizer."""
        open_clip = import_open_clip()
        train, held_out = split_held_out(list_captioned(self.shards), self.config.validation_fraction, self.config.seed)
        folder = self.output.local(f"{FOLDER}/tokenizer.json").parent
        self.output.local(f"{FOLDER}/tokenizer_config.json")
        tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=self.config.context_length)
        preprocess = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**preprocess_config(self.config)), is_train=False
        )
        order = SampleOrder([len(train)], len(train), self.config.seed)
        self._state = _State(train, held_out[:_MAX_VALIDATION_PAIRS], tokenizer, preprocess, order)

    @property
    def state(self) -> "_State":
        """What :meth:`setup` opened."""
        if self._state is None:
            raise RuntimeError("ClipTask.setup has not been called")
        return self._state

    def build_model(self) -> nn.Module:
        """Make the open_clip model with random weights.

        Raises:
            InputFault: open_clip refuses the architecture.
        """
        open_clip = import_open_clip(with_timm="timm_model_name" in self.config.architecture.vision_cfg)
        try:
            # a scale of shape [1], for DeepSpeed cannot broadcast weights without an axis
            clip = open_clip.CLIP(**model_config(self.config, self.vocab_size), nonscalar_logit_scale=True)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputFault(
                f"train_clip.architecture: open_clip cannot build the model ({error}): give embed_dim, vision_cfg and "
                "text_cfg as in one of open_clip's model configs"
            ) from error
        return ContrastiveClip(clip, max_logit_scale=self.config.max_logit_scale)

    def prepare(self, part: BatchPart) -> Batch:
        """Decode, change a little and tokenize the pairs of the part."""
        images = [self.state.train[row] for row in self.state.order.at(part.positions)[:, 1].tolist()]
        pixels = torch.stack([self.state.preprocess(image.read()) for image in images])
        pixels = augment(pixels, sample_seeds(self.config.seed, part), self.config.augmentation)
        return {"pixels": pixels, "tokens": self.state.tokenizer([image.caption for image in images])}

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        """Retrieve held-out pairs; ask for the attributes of scenes if the images are scenes."""
        encoders = self._encoders(model)
        pairs = self.state.held_out
        z_image = torch.cat([self._embed(model, [image.read() for image in chunk]) for chunk in _chunks(pairs)])
        captions = [image.caption for image in pairs]
        metrics = retrieval(z_image, encoders.texts(captions), captions)
        if self.config.scene_probe is not None:
            metrics |= probe_scenes(encoders, self.config.scene_probe)
        return [Metrics(metrics, step)]

    def _encoders(self, model: Any) -> Encoders:
        device = next(model.parameters()).device

        def images(images: Tensor) -> Tensor:
            return self._embed(model, [Image.fromarray(image.numpy()) for image in images])

        def texts(captions: Sequence[str]) -> Tensor:
            chunks = [self.state.tokenizer(list(chunk)).to(device) for chunk in _chunks(captions)]
            return torch.cat([F.normalize(model.clip.encode_text(chunk).float(), dim=-1) for chunk in chunks])

        return Encoders(images, texts, int(self.config.architecture.vision_cfg["image_size"]))

    def _embed(self, model: Any, images: Sequence[Image.Image]) -> Float[Tensor, "batch embed"]:
        weight = next(model.parameters())
        pixels = torch.stack([self.state.preprocess(image) for image in images]).to(weight.device, weight.dtype)
        z: Tensor = model.clip.encode_image(pixels)
        normalised: Tensor = F.normalize(z.float(), dim=-1)
        return normalised

    def save(self, model: Any, output: Output) -> None:
        """Write open_clip's own folder format, beside the tokenizer that is there already."""
        dtype = torch.float16 if self.config.store_float16 else torch.float32
        weights = {
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in model.clip.state_dict().items()
        }
        weights["logit_scale"] = weights["logit_scale"].reshape(())  # as open_clip stores it
        with output.writing(f"{FOLDER}/open_clip_model.safetensors") as path:
            save_file(weights, path)
            path.chmod(0o644)
        output.write_json(
            f"{FOLDER}/open_clip_config.json",
            {"model_cfg": model_config(self.config, self.vocab_size), "preprocess_cfg": preprocess_config(self.config)},
        )


@dataclass(frozen=True)
class _State:
    """What a task holds in a training process."""

    train: list[CaptionedImage]
    held_out: list[CaptionedImage]
    tokenizer: Callable[[list[str]], Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    order: SampleOrder


def augment(
    pixels: Float[Tensor, "count channels height width"], seeds: Sequence[int], stds: ClipAugmentation
) -> Float[Tensor, "count channels height width"]:
    """Change contrast and brightness of each image a little and add noise, as its seed says.

    x' = x (1 + contrast e_1) + brightness e_2 + noise u e_3, with e_i normal and u = Phi(e_4) uniform
    """
    shape = tuple(pixels.shape[1:])
    generated = seeded_noise(seeds, (3 + pixels[0].numel(),))
    contrast, brightness, level = (generated[:, index].view(-1, 1, 1, 1) for index in range(3))
    noise = generated[:, 3:].reshape(-1, *shape)
    uniform: Tensor = torch.special.ndtr(level)
    changed: Tensor = pixels * (1 + stds.contrast * contrast) + stds.brightness * brightness
    return changed + uniform * noise * stds.noise


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
    size = config.architecture.vision_cfg["image_size"]
    return {"size": [size, size], "mode": "RGB", **config.preprocessing.model_dump(mode="json")}


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
