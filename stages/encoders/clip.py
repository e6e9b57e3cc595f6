"""CLIP encoders: one or several open_clip models, whose raw embeddings are concatenated."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stages.contract.errors import InputFault, nearest
from stages.encoders.check import architecture_file, check_clip
from stages.encoders.clip_states import TextTower, common_lengths, require_one_tokenizer
from stages.encoders.config import ClipConfig, FolderClip, PretrainedClip, TrainedClip
from stages.encoders.identity import digest_tensors
from stages.encoders.model_files import describe_load_error, require_token_range
from stages.encoders.open_clip_import import import_open_clip
from stages.formats.clip_folders import CLIP_CONFIG
from stages.formats.clips import ClipIdentity, Clips

GpuPrecision = Literal["float32", "float16", "bfloat16"]
Images = Sequence[Image.Image] | UInt8[np.ndarray, "batch height width 3"] | UInt8[Tensor, "batch height width 3"]
Pixels = UInt8[np.ndarray, "height width 3"]
Prepared = dict[str, Pixels]
"""An image cropped and scaled for the models, by preparation; models with the same preparation use the same pixels."""
PreparedBatch = dict[str, UInt8[Tensor, "batch height width 3"]]


class ClipEncoder:
    """Encode images and texts by every configured model; embeddings are concatenated in the configured order.

    Each model prepares images and texts as it was trained. Embeddings are not normalised, because their lengths are
    data; where ``normalised`` is true, each model's have length 1, for use beside existing embeddings that have.
    On a CPU the arithmetic is float32; on a GPU it is ``gpu_precision``. Results are float32 on the CPU.
    """

    def __init__(
        self,
        config: ClipConfig,
        *,
        device: torch.device | str | None = None,
        gpu_precision: GpuPrecision = "float16",
        normalised: bool = False,
    ) -> None:
        self._normalised = normalised
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._precision = getattr(torch, gpu_precision)
        check_clip(config)
        self._models = [
            _OneClip(_require_path(model), where=f"clip.models[{index}]", device=self.device)
            for index, model in enumerate(config.models)
        ]
        self._distinct = {model.preparation: model for model in self._models}.values()

    @property
    def identities(self) -> Clips:
        """Return the models' identities, in concatenation order."""
        return Clips(tuple(model.identity for model in self._models), "the configured clip.models")

    @property
    def block_dims(self) -> tuple[int, ...]:
        """Sizes of the concatenated blocks."""
        return tuple(model.identity.embed_dim for model in self._models)

    @property
    def embed_dim(self) -> int:
        """Size of the whole embedding."""
        return sum(self.block_dims)

    @torch.inference_mode()
    def encode_images(self, images: Images) -> Float[Tensor, "batch embed"]:
        """Encode a batch of images: PIL images of any size, or 8-bit RGB arrays."""
        if len(images) == 0:
            return torch.zeros(0, self.embed_dim)
        return self.encode_prepared(self.collate([self.prepare(as_pil(image)) for image in images]))

    def prepare(self, image: Image.Image) -> Prepared:
        """Crop and scale an RGB image for every model; threads may prepare images while the models work.

        Nothing of torch is called: its threads, a pool for each of these, would compete.
        """
        return {model.preparation: model.prepare(image) for model in self._distinct}

    def collate(self, prepared: Sequence[Prepared]) -> PreparedBatch:
        """Return prepared images as one batch, in pinned memory for a GPU."""
        return collated(prepared, self.device)

    @torch.inference_mode()
    def encode_prepared(self, batch: PreparedBatch) -> Float[Tensor, "batch embed"]:
        """Encode a batch of prepared images."""
        moved = {name: pixels.to(self.device, non_blocking=True) for name, pixels in batch.items()}
        return self._concatenate(lambda model: model.encode_images(moved[model.preparation]))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed"]:
        """Encode a batch of texts."""
        if not texts:
            return torch.zeros(0, self.embed_dim)
        return self._concatenate(lambda model: model.encode_texts(texts))

    def text_state_width(self) -> int:
        """Return the width of the concatenated token states of the text towers."""
        return require_one_tokenizer([model.text_tower() for model in self._models])

    @torch.inference_mode()
    def encode_texts_with_states(
        self, texts: Sequence[str]
    ) -> tuple[Float[Tensor, "batch embed"], list[Float[Tensor, "tokens width"]]]:
        """Encode a batch of texts, and return also the last hidden states of each text's tokens up to its end token.

        The states of several models are concatenated, so their tokens must be the same.
        """
        if not texts:
            return torch.zeros(0, self.embed_dim), []
        with contextlib.ExitStack() as stack:
            towers = [model.text_tower() for model in self._models]
            hidden = [stack.enter_context(tower.keeping_states()) for tower in towers]
            embedding = self.encode_texts(texts)
        states = torch.cat([kept[0] for kept in hidden], dim=-1)
        lengths = common_lengths(towers, texts)
        return embedding, [row[:length].clone() for row, length in zip(states, lengths, strict=True)]

    def embed_images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch embed"]:
        """Encode square images in [-1, 1] on the encoder's device, with gradients to the images (not to weights).

        They are scaled to each model's size by interpolation on the device instead of PIL, so that embeddings differ
        slightly from those of :meth:`encode_images` where the size differs. Precision is the caller's autocast.
        """
        return torch.cat([model.embed_images(images).float() for model in self._models], dim=-1)

    def _concatenate(self, encode: Callable[["_OneClip"], Tensor]) -> Float[Tensor, "batch embed"]:
        on_gpu = self.device.type != "cpu" and self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision, enabled=on_gpu):
            blocks = [encode(model).float().cpu() for model in self._models]
        if self._normalised:
            blocks = [F.normalize(block, dim=-1) for block in blocks]
        return torch.cat(blocks, dim=-1)


def _require_path(model: FolderClip | PretrainedClip | TrainedClip) -> FolderClip | PretrainedClip:
    if isinstance(model, TrainedClip):
        raise ValueError("ClipEncoder: a trained model has no path of its own: call local_clips first")
    return model


class _OneClip:
    """One open_clip model with its preprocessing and tokenizer."""

    def __init__(self, config: FolderClip | PretrainedClip, *, where: str, device: torch.device) -> None:
        self._device, self._where = device, where
        self._model, preprocess, self._tokenizer = _load(config, where)
        *of_image, _, normalize = preprocess.transforms  # _ scales bytes to [0, 1]
        self._of_image = type(preprocess)(of_image)
        self._normalize = type(normalize)(normalize.mean, normalize.std, inplace=True)
        self.identity = _identify(self._model, config.reference)
        self.preparation = _preparation_of(self._model)
        self._model.to(device)

    def prepare(self, image: Image.Image) -> Pixels:
        """Crop and scale an image as open_clip does for the model."""
        return np.asarray(self._of_image(image))

    def encode_images(self, pixels: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch embed"]:
        """Encode prepared images that are on the model's device."""
        numbers = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return self._model.encode_image(self._normalize(numbers))  # type: ignore[no-any-return]

    def embed_images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch embed"]:
        size, settings = self.identity.image_size, self._model.visual.preprocess_cfg
        mean, std = (images.new_tensor(settings[name])[:, None, None] for name in ("mean", "std"))
        if images.shape[-2:] != (size, size):
            mode = settings["interpolation"] if settings["interpolation"] in ("bicubic", "bilinear") else "bicubic"
            images = F.interpolate(images, size=(size, size), mode=mode, antialias=True)
        return self._model.encode_image((images * 0.5 + 0.5 - mean) / std)  # type: ignore[no-any-return]

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch embed"]:
        return self._model.encode_text(self._tokenizer(list(texts)).to(self._device))  # type: ignore[no-any-return]

    def text_tower(self) -> TextTower:
        """Return access to the states of the text tower."""
        return TextTower(self._model, self._tokenizer, where=f"{self._where} ({self.identity.reference})")


def _load(config: FolderClip | PretrainedClip, where: str) -> tuple[Any, Any, Any]:
    """Return model (evaluation mode, float32, CPU), preprocessing and tokenizer."""
    open_clip = import_open_clip(with_timm=_needs_timm(config))
    if isinstance(config, FolderClip):
        name, options = f"local-dir:{config.path}", {}
    else:
        name, options = config.name, _pretrained_options(open_clip, config, where)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(name, weights_only=True, **options)
        tokenizer = open_clip.get_tokenizer(name, **_tokenizer_options(config))
    except Exception as error:  # the libraries raise errors of many types
        reason = describe_load_error(error)
        remedy = (
            "make the folder again with the installed open_clip"
            if isinstance(config, FolderClip)
            else "weights are downloaded the first time: without a network, copy them and give their folder"
        )
        raise InputFault(f"{where}: open_clip cannot load {config.reference} ({reason}): {remedy}") from error
    if (inner := getattr(tokenizer, "tokenizer", None)) is not None:  # one of transformers'
        require_token_range(inner, _architecture(config)["text_cfg"].get("vocab_size", 49_408), config.reference, where)
    return model.eval().requires_grad_(False), preprocess, tokenizer


def _pretrained_options(open_clip: Any, config: PretrainedClip, where: str) -> dict[str, Any]:
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    if config.tag not in tags:
        raise InputFault(
            f"{where}.tag: open_clip has no weights {config.tag!r} for {config.name}{nearest(config.tag, tags)}: "
            f"allowed are {', '.join(tags) or 'none'}"
        )
    weights = open_clip.get_pretrained_cfg(config.name, config.tag)
    return {"pretrained": config.tag, "force_quick_gelu": bool(weights.get("quick_gelu", False))}


def _needs_timm(config: FolderClip | PretrainedClip) -> bool:
    return "timm_model_name" in _architecture(config)["vision_cfg"]


def _tokenizer_options(config: FolderClip | PretrainedClip) -> dict[str, bool]:
    """Return what keeps transformers from running code of a folder, from asking for it, and from any other place."""
    if not _architecture(config)["text_cfg"].get("hf_tokenizer_name"):
        return {}  # open_clip's own tokenizer
    return {"trust_remote_code": False, "local_files_only": isinstance(config, FolderClip)}


def _architecture(config: FolderClip | PretrainedClip) -> dict[str, Any]:
    file = config.path / CLIP_CONFIG if isinstance(config, FolderClip) else architecture_file(config.name)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content.get("model_cfg", content)  # type: ignore[no-any-return]


def _identify(model: Any, reference: str) -> ClipIdentity:
    digest = digest_tensors(model.state_dict(), hashlib.sha256(_preparation_of(model).encode()))
    size = model.visual.image_size
    image_size = int(size[0] if isinstance(size, tuple | list) else size)
    return ClipIdentity(reference=reference, digest=digest, embed_dim=_text_dim(model), image_size=image_size)


def _preparation_of(model: Any) -> str:
    """Return everything that the preparation of an image depends on."""
    return json.dumps(model.visual.preprocess_cfg, sort_keys=True, default=str)


def _text_dim(model: Any) -> int:
    """Measure the size of an embedding, which architectures name differently."""
    with torch.inference_mode():
        tokens = torch.zeros(1, model.context_length, dtype=torch.long)
        return int(model.encode_text(tokens).shape[-1])


def collated(prepared: Sequence[Prepared], device: torch.device) -> PreparedBatch:
    """Return prepared images as one batch, in pinned memory for a GPU."""
    stacks = {name: torch.from_numpy(np.stack([image[name] for image in prepared])) for name in prepared[0]}
    pin = device.type == "cuda"
    return {name: stack.pin_memory() if pin else stack for name, stack in stacks.items()}


def as_pil(image: Image.Image | UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]) -> Image.Image:
    """Return an image as one of Pillow's in RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"encode_images: found an array {array.dtype}{list(array.shape)}: allowed are PIL images or "
            "uint8 arrays [height, width, 3]"
        )
    return Image.fromarray(array)
