"""A captioning model of transformers: from images to texts, by search or by sampling that is seeded per image.

To sample a token from softmax(logits / T) is to take the largest of logits / T + g, where g is standard Gumbel noise
(Gumbel 1954; Maddison et al., arXiv 1411.0030, section 2). The noise is seeded by the image's key, so a caption depends
neither on what is captioned beside it nor on who does it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from models.noise import SeededNoise
from stages.caption_images.check import WHERE, check
from stages.caption_images.config import CaptionImagesConfig
from stages.caption_images.prompts import make_prompt
from stages.contract.errors import InputFault
from stages.encoders.image_to_text.loading import load_image_to_text
from stages.encoders.model_files import describe_load_error
from stages.formats.pseudo_captions import Captioner

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


class ImageCaptioner:
    """Captions images; the arithmetic is float32 on a CPU and ``gpu_precision`` on a GPU."""

    def __init__(self, config: CaptionImagesConfig, *, device: str) -> None:
        """Load the model; InputFault: it is not there, says what none may say, or cannot caption an image."""
        from transformers import AutoModelForImageTextToText

        local = config.model_copy(update={"model": config.model.local()})
        check(local)
        folder = local.model.path
        self._config, self._device = config, device
        self._dtype = torch.float32 if device == "cpu" else getattr(torch, config.gpu_precision)
        self._loaded = load_image_to_text(folder, AutoModelForImageTextToText, config.model.reference, WHERE)
        self._model, self._tokenizer = self._loaded.model, self._loaded.tokenizer
        self.identity = self._identity(folder)
        self._model.to(device=device, dtype=self._dtype)
        self._try_one()

    def caption(self, images: Sequence[Image.Image], keys: Sequence[str]) -> list[list[str]]:
        """Return the captions of each image, ``num_captions`` in all; some may be empty or equal."""
        config, pixels = self._config, self._pixels(images)
        options: dict[str, Any] = {"num_beams": config.num_beams, "num_return_sequences": config.num_captions}
        if config.is_sampled:
            seeds = [caption_seed(config.seed, key, number) for key in keys for number in range(config.num_captions)]
            pixels = pixels.repeat_interleave(config.num_captions, 0)
            options = {"logits_processor": [SeededSampling(seeds, config.temperature)]}
        texts = [clean_caption(text, config.max_characters) for text in self._generate(pixels, options)]
        count = config.num_captions
        return [texts[first : first + count] for first in range(0, len(texts), count)]

    @torch.inference_mode()
    def _generate(self, pixels: Tensor, options: Mapping[str, Any]) -> list[str]:
        inputs = {"pixel_values": pixels} | self._prompt.arguments(len(pixels))
        # What the folder says of sampling is not followed; of repetition and forced tokens, it is.
        usual: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "num_beams": 1}
        usual |= {"num_return_sequences": 1, "max_length": None, "max_new_tokens": self._config.max_new_tokens}
        tokens = self._model.generate(**inputs, **usual | dict(options))[:, self._prompt.num_left_out :]
        texts: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
        return self._loaded.pixels(images).to(device=self._device, dtype=self._dtype)

    def _try_one(self) -> None:
        """Make the prompt and caption a grey image: parts that do not belong together are found before any shard is."""
        grey = Image.new("RGB", (64, 64), "grey")
        try:
            self._prompt = make_prompt(self._config.prompt, self._loaded, self._pixels([grey])).to(self._device)
            self.caption([grey], ["0"])
        except InputFault:
            raise
        except Exception as error:  # the libraries raise errors of many types
            raise InputFault(
                f"{WHERE}: {self._config.model.reference} cannot caption an image ({describe_load_error(error)}): "
                "expected model, image processor and tokenizer that belong together, and a prompt that the model "
                "can read: save the model again, or leave caption_images.prompt out"
            ) from error

    def _identity(self, folder: Path) -> Captioner:
        config = self._config
        return Captioner(
            reference=config.model.reference,
            model_type=self._model.config.model_type,
            digest=self._loaded.digest,
            revision=_revision(folder, config.model.reference),
            prompt=config.prompt or "",
            num_captions=config.num_captions,
            max_new_tokens=config.max_new_tokens,
            num_beams=config.num_beams,
            temperature=config.temperature,
            seed=config.seed if config.is_sampled else None,
            images=config.images,
        )


class SeededSampling:
    """A logits processor of transformers: adds to each row the Gumbel noise of its seed, so that the largest logit is
    a sample.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._noise, self._temperature = SeededNoise(seeds), temperature

    def __call__(
        self, input_ids: Int[Tensor, "batch tokens"], scores: Float[Tensor, "batch words"]
    ) -> Float[Tensor, "batch words"]:
        """Return the scores of the next token, of which the largest is taken."""
        uniform = self._noise.uniform(scores.shape[1:], scores.device).clamp(min=torch.finfo(torch.float32).tiny)
        return scores.float() / self._temperature - torch.log(-torch.log(uniform))


def caption_seed(seed: int, key: str, number: int) -> int:
    """Return the seed of an image's n-th caption."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}:{number}".encode()).digest()[:8], "big") >> 1


def clean_caption(text: str, max_characters: int) -> str:
    """Return a caption on one line without control characters; a longer one ends with its last whole word."""
    words = " ".join(_CONTROL.sub(" ", text).split())
    if len(words) <= max_characters:
        return words
    cut = words[: max_characters + 1]
    return cut.rpartition(" ")[0] or words[:max_characters]


def _revision(folder: Path, reference: str) -> str:
    """Return the commit that the folder says it is of: in its configuration, by its name in the hub's cache, or in what
    the hub's client leaves beside the files; "" where it says none.
    """
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_commit_hash")
    beside = folder / ".cache/huggingface/download/config.json.metadata"
    if not said and beside.is_file():
        with beside.open(encoding="utf-8", errors="replace") as file:
            said = file.readline(100).strip()
    candidates = (said, Path(reference).name, folder.name)
    return next((one for one in candidates if isinstance(one, str) and _COMMIT.fullmatch(one)), "")
