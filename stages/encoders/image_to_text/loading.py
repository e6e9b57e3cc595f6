"""Load a model from images to texts with its image processor and its tokenizer; nothing of its folder is run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stages.contract.errors import InputFault
from stages.encoders.identity import digest_tensors
from stages.encoders.image_to_text.files import PREPROCESSING, require_room
from stages.encoders.model_files import describe_load_error, require_token_range
from stages.encoders.state_encoder import no_progress_bar

_LONGEST = 8  # times the shorter side; of a longer image the middle: the model sees a square of it anyway


@dataclass(frozen=True)
class ImageToText:
    """Model (evaluation mode, float32, on the CPU), image processor and tokenizer."""

    model: Any
    processor: Any
    tokenizer: Any
    digest: str
    """SHA-256 of the weights, the vocabulary and how images are prepared."""

    @property
    def model_type(self) -> str:
        """The name that transformers has for its type."""
        return str(self.model.config.model_type)

    def pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
        """Return images as the model takes them."""
        prepared: Tensor = self.processor(images=[_not_too_long(image) for image in images], return_tensors="pt")[
            "pixel_values"
        ]
        return prepared


def load_image_to_text(folder: Path, auto_class: Any, reference: str, where: str) -> ImageToText:
    """Load the model by one of transformers' classes; InputFault: the folder holds no whole model of it."""
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with no_progress_bar():
            require_room(auto_class, AutoConfig.from_pretrained(folder, **options), folder, where)
            model, report = auto_class.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except InputFault:
        raise
    except Exception as error:  # the libraries raise errors of many types
        raise InputFault(
            f"{where}: transformers cannot load {reference} ({describe_load_error(error)}): weights are read as "
            "safetensors only: save the model again by save_pretrained"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise InputFault(
            f"{where}: {reference} lacks {len(missing)} of its weights ({', '.join(missing[:3])}): expected all of "
            "them: save the model again"
        )
    require_token_range(tokenizer, int(model.config.get_text_config(decoder=True).vocab_size), reference, where)
    return ImageToText(model.eval().requires_grad_(False), processor, tokenizer, _digest(model, tokenizer, folder))


def _not_too_long(image: Image.Image) -> Image.Image:
    """Return the image, or its middle: preprocessing may scale the shorter side up, and the longer with it."""
    width, height = (min(side, _LONGEST * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _digest(model: Any, tokenizer: Any, folder: Path) -> str:
    about: list[Any] = [sorted(tokenizer.get_vocab().items())]
    about += [(folder / name).read_text(encoding="utf-8") for name in PREPROCESSING if (folder / name).exists()]
    return digest_tensors(model.state_dict(), hashlib.sha256(json.dumps(about).encode()))
