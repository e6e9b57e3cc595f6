"""Generate the images of requests with a finished system.

The embedding of an image is computed by itself, so that it never depends on what is generated beside it. The decoder
works in batches; a row of a batch depends on its own inputs and, by rounding, on the batch's size. In a batch of the
same size and at the same row, an image comes out the same to the last bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.interpolation import slerp
from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from stages.contract.parsing import load_json
from stages.formats.generated_images import unpack_embedding, unpack_pixels
from stages.inference.requests import (
    ArithmeticRequest,
    BatchRow,
    EditRequest,
    End,
    ImageEnd,
    ImageRequest,
    InterpolationRequest,
    SceneRequest,
    TextRequest,
    UnconditionalRequest,
    VariationRequest,
)
from stages.inference.sources import Group
from stages.inference.text_to_image import Images, TextToImageSystem

KEPT_ENDS = 64
Row = Float[Tensor, "embed"]


@dataclass(frozen=True)
class Generated:
    """An image, what it was generated from and where; with a CLIP score where it was chosen among several."""

    request: ImageRequest
    image: UInt8[np.ndarray, "height width 3"]
    batch_row: BatchRow
    clip_score: float | None = None


def generate_groups(system: TextToImageSystem, groups: Iterable[Group]) -> Iterator[Generated]:
    """Yield the images that are kept of each group, the best first, batch by batch."""
    for chunk in _chunks(groups, system.batch_size):
        generated = iter(generate_images(system, [request for group in chunk for request in group.requests]))
        for group in chunk:
            yield from _best(system, [next(generated) for _ in group.requests], group.kept)


def _chunks(groups: Iterable[Group], batch_size: int) -> Iterator[list[Group]]:
    """Join groups until they fill a batch, so that images are written as they come."""
    chunk: list[Group] = []
    for group in groups:
        chunk.append(group)
        if sum(len(one.requests) for one in chunk) >= batch_size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _best(system: TextToImageSystem, candidates: Sequence[Generated], kept: int) -> Iterator[Generated]:
    """Yield the candidates with the highest CLIP scores by the run's own models; a single one gets no score."""
    if len(candidates) == 1:
        yield candidates[0]
        return
    titles = [one.request.title for one in candidates]
    cosines = system.agreement(np.stack([one.image for one in candidates]), titles).tolist()
    order = sorted(range(len(candidates)), key=lambda row: -cosines[row])
    for row in order[:kept]:
        one, score = candidates[row], round(100 * max(cosines[row], 0.0), 4)
        yield Generated(one.request, one.image, one.batch_row, score)


def generate_images(system: TextToImageSystem, requests: Sequence[ImageRequest]) -> list[Generated]:
    """Return an image for each request; edits have to be all to the same strength."""
    if not requests:
        return []
    embedder = _Embedder(system)
    embeddings = torch.stack([embedder.embedding(request) for request in requests])
    text = torch.stack([embedder.text(request) for request in requests]) if system.reads_text else None
    images = _decode(system, requests, embeddings, text)
    rows = _batch_rows(len(requests), system.batch_size)
    return [Generated(request, image, row) for request, image, row in zip(requests, images, rows, strict=True)]


def regenerate(
    system: TextToImageSystem, request: ImageRequest, batch_row: BatchRow
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image of a request at the row where it was generated first, in a batch of nothing but itself.

    The system's batches have to be as large (``TextToImageSystem.batch_size``).
    """
    return generate_images(system, [request] * batch_row.size)[batch_row.row].image


def settings_from(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the sampling settings in an image's text fields.

    Raises:
        KeyError: there are none.
        ValueError: the field holds something else.
    """
    settings = load_json(fields["settings"])
    if not isinstance(settings, dict):
        raise ValueError("settings are no mapping")
    return settings


def _decode(
    system: TextToImageSystem, requests: Sequence[ImageRequest], embeddings: Tensor, text: Tensor | None
) -> Images:
    seeds = [request.seed for request in requests]
    edits = [request for request in requests if isinstance(request, EditRequest)]
    if not edits:
        return system.decode_conditional(embeddings, text, seeds)
    strengths = {edit.strength for edit in edits}
    if len(edits) < len(requests) or len(strengths) > 1:
        raise ValueError(
            f"generate_images: found {len(edits)} edits to strengths {sorted(strengths)} among {len(requests)} "
            "requests: expected edits to one strength, or none: generate them one after the other"
        )
    sources = np.stack([unpack_pixels(edit.pixels) for edit in edits])
    width, height = system.size
    if sources.shape[1:3] != (height, width):
        raise ValueError(
            f"generate_images: found images of {sources.shape[2]} x {sources.shape[1]} pixels: expected "
            f"{width} x {height}"
        )
    return system.edit(sources, embeddings, text, seeds, strength=strengths.pop())


def _batch_rows(num: int, batch_size: int) -> Iterator[BatchRow]:
    for number in range(num):
        first = number - number % batch_size
        yield BatchRow(min(batch_size, num - first), number - first)


class _Embedder:
    """Makes the embeddings of requests, one at a time; what several requests share is made once."""

    def __init__(self, system: TextToImageSystem) -> None:
        self._system = system
        self._imagined = lru_cache(maxsize=KEPT_ENDS)(lambda prompt, seed: system.imagine([prompt], [seed])[0])
        self._encoded = lru_cache(maxsize=KEPT_ENDS)(lambda prompt: system.encode([prompt])[0])
        self._as_image = lru_cache(maxsize=KEPT_ENDS)(lambda prompt: system.encode_as_images([prompt])[0])

    def embedding(self, request: ImageRequest) -> Row:
        """Return the image embedding that the image is generated from."""
        match request:
            case TextRequest():
                return self._imagined(request.prompt, request.seed) if request.prior else self._as_image(request.prompt)
            case UnconditionalRequest() | SceneRequest():
                return self._without_prompt(request)
            case VariationRequest():
                return self._end(request.image, request.seed)
            case InterpolationRequest():
                start, end = (self._end(one, request.seed) for one in (request.start, request.end))
                return _between(start, end, request.fraction, self._system.images.block_dims)
            case EditRequest():
                return self._imagined(request.prompt, request.seed)
            case ArithmeticRequest():
                image = self._end(request.image, request.seed)
                return self._system.move(image[None], [request.instead_of], [request.prompt], request.strength)[0]

    def _without_prompt(self, request: UnconditionalRequest | SceneRequest) -> Row:
        if isinstance(request, UnconditionalRequest):
            return self._system.imagine_without_prompts([request.seed])[0]
        rendered = render_scenes([Scene(**request.scene)], self._system.resolution)
        return self._system.images.encode_images(rendered)[0]

    def text(self, request: ImageRequest) -> Row:
        """Return the text embedding for a decoder that reads texts; NaN: none."""
        match request:
            case TextRequest() | EditRequest() | ArithmeticRequest():
                return self._encoded(request.prompt)
            case InterpolationRequest() if {request.start.kind, request.end.kind} == {"text"}:
                start, end = self._encoded(request.start.name), self._encoded(request.end.name)
                return _between(start, end, request.fraction, self._system.encoder.block_dims)
            case _:
                return torch.full((self._system.encoder.embed_dim,), torch.nan)

    def _end(self, end: End, seed: int) -> Row:
        if not isinstance(end, ImageEnd):
            return self._imagined(end.name, seed)
        embedding = torch.from_numpy(unpack_embedding(end.embedding))
        if len(embedding) != self._system.images.embed_dim:
            raise ValueError(
                f"generate_images: the image {end.name} has an embedding of width {len(embedding)}: expected "
                f"{self._system.images.embed_dim}, as the run's own encoder of images makes"
            )
        return embedding


def _between(start: Row, end: Row, fraction: float, block_dims: Sequence[int]) -> Row:
    return slerp(start[None], end[None], torch.tensor([fraction], dtype=start.dtype), block_dims)[0]
