"""The finished system: text to embedding by CLIP and the prior, embedding to image by the decoder.

An image depends on its own prompt and seed only, whatever is generated beside it (up to rounding).
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.decoders.base import Decoder, from_bytes, to_bytes
from models.priors.base import Prior
from models.similarity import block_cosine
from stages.encoders.text import TextEncoder
from stages.inference.sampling import SamplingSettings

Embeddings = Float[Tensor, "batch embed"]
Images = UInt8[np.ndarray, "batch height width 3"]


class SamplingClock:
    """Adds up images, and the seconds of the decoder's sampling alone; the device has finished when a span ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.images, self.seconds = 0, 0.0

    @contextlib.contextmanager
    def timing(self, images: int) -> Iterator[None]:
        """Count the time of the block as that of so many images."""
        self._finish()
        begun = time.perf_counter()
        yield
        self._finish()
        self.seconds += time.perf_counter() - begun
        self.images += images

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class TextToImageSystem:
    """CLIP, prior and decoder of one and the same embedding space."""

    def __init__(
        self,
        encoder: TextEncoder,
        prior: Prior,
        decoder: Decoder,
        settings: SamplingSettings,
        *,
        resolution: int,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self._encoder, self.encoder = encoder, encoder.clip
        self.settings = settings
        self.resolution = resolution
        self._prior = prior
        self._decoder = decoder
        self.reads_text, self.can_edit = decoder.reads_text, decoder.can_edit
        self.batch_size = batch_size
        self._device = torch.device(device)
        self.clock = SamplingClock(self._device)

    @property
    def decoder_kind(self) -> str:
        """The kind of decoder."""
        return self._decoder.spec.kind

    def with_settings(self, changes: Mapping[str, Any]) -> "TextToImageSystem":
        """Return the same models with other settings."""
        other = copy.copy(self)
        other.settings, other.clock = self.settings.replaced(changes), SamplingClock(self._device)
        return other

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Images:
        """Return an image for each prompt."""
        return self.decode(self.imagine(prompts, seeds), seeds, prompts)

    def encode(self, prompts: Sequence[str]) -> Embeddings:
        """Return the CLIP text embeddings."""
        starts = range(0, len(prompts), self.batch_size)
        parts = [self.encoder.encode_texts(prompts[start : start + self.batch_size]) for start in starts]
        return torch.cat(parts or [torch.zeros(0, self.encoder.embed_dim)])

    def imagine(self, prompts: Sequence[str], seeds: Sequence[int]) -> Embeddings:
        """Return the prior's image embeddings for prompts."""

        def sample(start: int, end: int) -> Tensor:
            text = self._encoder.encode(prompts[start:end]).features()
            even = [2 * seed for seed in seeds[start:end]]  # odd ones are the decoder's: no noise is used twice
            return self._prior.sample(text.to(self._device), even, self.settings.prior)

        return self._in_batches(sample, len(prompts), seeds)

    def imagine_without_prompts(self, seeds: Sequence[int]) -> Embeddings:
        """Return image embeddings that the prior samples without prompts; ValueError: it has not learned to."""

        def sample(start: int, end: int) -> Tensor:
            return self._prior.sample_unconditional([2 * seed for seed in seeds[start:end]], self.settings.prior)

        return self._in_batches(sample, len(seeds), seeds)

    def decode(self, embeddings: Embeddings, seeds: Sequence[int], prompts: Sequence[str] | None = None) -> Images:
        """Return images for image embeddings; a decoder that reads texts is conditioned on the prompts too."""
        text = self.encode(prompts) if prompts is not None and self.reads_text else None
        return self.decode_conditional(embeddings, text, seeds)

    def decode_conditional(self, embeddings: Embeddings, text: Embeddings | None, seeds: Sequence[int]) -> Images:
        """Return images for image embeddings, and for text embeddings (NaN: no text) if the decoder reads any."""

        def sample(rows: slice, own: list[int]) -> Tensor:
            given, texts = embeddings[rows].to(self._device), None if text is None else text[rows].to(self._device)
            return self._decoder.sample(given, own, self.settings.decoder, texts)

        return self._decoded(sample, len(embeddings), seeds)

    def edit(
        self, images: Images, embeddings: Embeddings, text: Embeddings | None, seeds: Sequence[int], *, strength: float
    ) -> Images:
        """Noise images of the system's resolution to a strength, and denoise them under the embeddings."""

        def sample(rows: slice, own: list[int]) -> Tensor:
            source = from_bytes(torch.from_numpy(images[rows])).to(self._device)
            given, texts = embeddings[rows].to(self._device), None if text is None else text[rows].to(self._device)
            return self._decoder.edit(source, given, own, self.settings.decoder, strength=strength, text=texts)

        return self._decoded(sample, len(embeddings), seeds)

    def move(
        self, embeddings: Embeddings, sources: Sequence[str], targets: Sequence[str], strength: float
    ) -> Embeddings:
        """Return z + strength (f_txt(target) - f_txt(source)): image embeddings moved from one text towards another."""
        return embeddings + strength * (self.encode(targets) - self.encode(sources))

    def agreement(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """Return each image's cosine with its prompt, averaged over the CLIP models."""
        starts = range(0, len(images), self.batch_size)
        parts = [self.encoder.encode_images(images[start : start + self.batch_size]) for start in starts]
        z_image = torch.cat(parts or [torch.zeros(0, self.encoder.embed_dim)])
        return block_cosine(z_image, self.encode(prompts), self.encoder.block_dims)

    def rows_agree(self) -> bool:
        """Return whether a prompt and seed give the same to the last bit in every row of a full batch.

        A batch of one size runs the same kernels, which need not compute all rows alike on every device: tried here.
        """
        prompts, seeds = ["a"] * self.batch_size, [0] * self.batch_size
        embeddings = self.imagine(prompts, seeds)
        text = self.encode(prompts).to(self._device) if self.reads_text else None
        with torch.inference_mode():
            images = self._decoder.sample(embeddings.to(self._device), [1] * len(seeds), self.settings.decoder, text)
        return all(torch.allclose(x, x[:1], rtol=0.0, atol=0.0, equal_nan=True) for x in (embeddings, images))

    def _decoded(self, sample: Callable[[slice, list[int]], Tensor], num: int, seeds: Sequence[int]) -> Images:
        """Return the images that ``sample`` gives for rows, batch by batch, as bytes."""

        def batch(start: int, end: int) -> Tensor:
            own = [2 * seed + 1 for seed in seeds[start:end]]
            with self.clock.timing(len(own)):
                images = sample(slice(start, end), own)
            return to_bytes(images)

        return self._in_batches(batch, num, seeds).numpy()

    @torch.inference_mode()
    def _in_batches(self, sample: Callable[[int, int], Tensor], num: int, seeds: Sequence[int]) -> Tensor:
        """Join what ``sample`` returns for each batch of rows, given its first row and the one after its last."""
        if num != len(seeds):
            raise ValueError(f"text_to_image: found {len(seeds)} seeds for {num} rows: give one seed per row")
        starts = range(0, max(num, 1), self.batch_size)
        return torch.cat([sample(start, start + self.batch_size).cpu() for start in starts])
