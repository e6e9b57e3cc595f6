"""Images, by the decoder that every stage uses and by the resizer of downloads; PNGs that were generated."""

import json
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.formats import join_png, mutate_image, mutate_png, png_chunks
from tests.fuzz.structures import mutate_json
from tests.fuzz.target import Broken, Run, Target


def _prepare_decoder() -> Run:
    from stages.formats.images import decode_image, square

    def run(data: bytes, folder: Path) -> object:
        image = decode_image(data, where="fuzz")
        if image.mode != "RGB":
            raise Broken(f"the mode is {image.mode}")
        return square(image, 8).shape

    return run


def _prepare_resizer() -> Run:
    from stages.contract.errors import ItemFault
    from stages.download_shards.config import DownloadShardsConfig
    from stages.download_shards.resizing import make_resizer

    source = {"kind": "folder", "path": "."}
    resize_each = make_resizer(
        DownloadShardsConfig(source=source, image_size=8, encode_format="png", resize_only_if_bigger=False)
    )

    def run(data: bytes, folder: Path) -> object:
        (found,) = resize_each([data])
        if isinstance(found, ItemFault):
            raise found
        if (found.width, found.height) != (8, 8):
            raise Broken(f"{found.width} x {found.height}")
        return found

    return run


def _generated() -> list[bytes]:
    from stages.formats.generated_images import encode_png, pack_embedding, pack_pixels
    from stages.inference.requests import BatchRow, EditRequest, ImageEnd, TextRequest, VariationRequest, fields_of
    from stages.inference.sampling import SamplingSettings

    pixels = np.zeros((4, 4, 3), np.uint8)
    end = ImageEnd(name="a.png", embedding=pack_embedding(np.ones(4)))
    requests = (
        TextRequest(seed=1, prompt="a star"),
        VariationRequest(seed=2, image=end),
        EditRequest(seed=3, prompt="x", name="a.png", pixels=pack_pixels(pixels), strength=0.5),
    )
    settings = SamplingSettings().flat()
    made = [encode_png(pixels, fields_of(one, BatchRow(2, 1)) | {"run": "r", "settings": settings}) for one in requests]
    old = {"prompt": "p", "seed": 1, "set": "reconstruction", "scene": {"shape": "star"}, "run": "r", "settings": {}}
    return [*made, encode_png(pixels, old)]


def _prepare_generated() -> Run:
    from pipeline.errors import UsageError
    from stages.formats.generated_images import read_png
    from stages.inference.generation import settings_from
    from stages.inference.requests import batch_row_from, request_from
    from stages.inference.sampling import SamplingSettings

    def run(data: bytes, folder: Path) -> object:
        file = folder / "x.png"
        file.write_bytes(data)
        fields, _ = read_png(file)
        request = request_from(fields, "--again x.png")
        try:
            return request.title, batch_row_from(fields), SamplingSettings().replaced(settings_from(fields))
        except (KeyError, TypeError, ValueError) as error:  # as the command itself has it
            raise UsageError(f"--again x.png: cannot be generated again ({str(error)[:100]!a})") from error

    return run


def _mutate_fields(rng: Random, data: bytes) -> bytes:
    """Change the JSON in a text field, or a chunk."""
    chunks = png_chunks(data)
    fields = [at for at, (name, _) in enumerate(chunks) if name == b"iTXt"]
    if not fields or rng.random() < 0.3:
        return mutate_png(rng, data)
    at = rng.choice(fields)
    key, _, text = chunks[at][1].partition(b"\0\0\0\0\0")
    try:
        json.loads(text)
    except ValueError:
        text = json.dumps(text.decode(errors="replace")).encode()
    chunks[at] = (b"iTXt", key + b"\0\0\0\0\0" + mutate_json(rng, text))
    return join_png(chunks)


TARGETS = (
    Target("image_decoder", seeds.images, _prepare_decoder, (mutate_image,), weight=3),
    Target("image_resizer", seeds.images, _prepare_resizer, (mutate_image,), weight=2),
    Target("generated_png", _generated, _prepare_generated, (_mutate_fields,), weight=2),
)
