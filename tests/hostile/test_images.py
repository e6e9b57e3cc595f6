"""Images of strangers through the real stage: the right pixels whatever the file holds, or a counted cause.

What is stored is read without any turning, so that it is right for every reader; and the decoder of all other stages
gives the same pixels of the files themselves.
"""

import io
import resource
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages.contract.errors import ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.image_decoding.decoding import decode
from stages.formats.images import decode_image
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import make_context, serve_folder
from tests.hostile import image_files as files
from tests.hostile.image_cases import GREY, SCENE, hostile_images, odd_exif, of_pixels, of_profiles, of_tiffs

MAX_PIXELS = 50_000_000
WHOLE = {"image_size": 64, "resize_mode": "no", "encode_format": "png"}


def convert(source, out, **options):
    """Run the stage over a folder or a list; return its counts, and of each entry its row and stored image."""
    described = {"kind": "folder", "path": source} if source.is_dir() else {"kind": "url_list", "path": source}
    defaults = {"source": described, "rows_per_shard": 1000, "min_yield": 0.0, "allowed_networks": ["127.0.0.1"]}
    config = DownloadShardsConfig(**(defaults | options))
    summary = run(config, {}, Output(str(out), "download_shards", "test"), make_context())
    rows = pd.concat(pd.read_parquet(path) for path in sorted((out / "shards").glob("*.parquet")))
    stored = {sample.key: sample.image for path in (out / "shards").glob("*.tar") for sample in read_shard(path)}
    found = {row["url"].rpartition("/")[2]: (row, stored.get(row["key"])) for row in rows.to_dict("records")}
    return summary.counts, found


def write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def as_stored(content):
    """Return what a reader sees that knows nothing of EXIF or profiles."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


# ---- upright

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 95}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
}
SMALL, LARGE = (24, 16), (96, 64)


def turned_images():
    return {
        f"{width}-{orientation}.{suffix}": files.turned(files.scene(width, height), orientation, form, **options)
        for suffix, (form, options) in FORMS.items()
        for width, height in (SMALL, LARGE)
        for orientation in range(1, 9)
    }


@pytest.mark.parametrize(
    ("encode_format", "resize_mode", "sizes"),
    [
        ("jpg", "center_crop", {24: (24, 16), 96: (32, 32)}),
        ("png", "keep_ratio", {24: (24, 16), 96: (48, 32)}),
        ("webp", "border", {24: (24, 16), 96: (32, 32)}),
        ("png", "keep_ratio_largest", {24: (24, 16), 96: (32, 21)}),
        ("jpg", "no", {24: (24, 16), 96: (96, 64)}),
    ],
)
def test_every_photo_is_stored_upright(tmp_path, encode_format, resize_mode, sizes):
    folder = write(tmp_path / "in", turned_images())
    options = {"image_size": 32, "encode_format": encode_format, "resize_mode": resize_mode}
    counts, found = convert(folder, tmp_path / "out", **options)
    assert counts["images"] == counts["rows"] == 64
    for name, (row, content) in found.items():
        pixels = as_stored(content)
        width, height = sizes[int(name.partition("-")[0])]
        original = SMALL if name.startswith("24") else LARGE
        assert pixels.shape == (height, width, 3), name
        assert (row["width"], row["height"], row["original_width"], row["original_height"]) == (
            width, height, *original
        ), name  # fmt: skip
        around = 6 if resize_mode == "border" and original == LARGE else 0  # white rows above and below
        points = [(y, x) for y in (around + 3, height - around - 4) for x in (3, width - 4)]
        assert np.abs([pixels[point] for point in points] - np.array(files.CORNERS)).max() < 30, name


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["B", "H", "I"])
def test_exif_of_either_byte_order_and_any_integer_is_read(order, kind):
    stored = Image.fromarray(SCENE).transpose(Image.Transpose.ROTATE_90)
    data = b"Exif\0\0" + files.exif(6, order=order, kind=kind)
    assert decode_image(files.encode(stored, "JPEG", exif=data), where="x").size == (48, 32)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_is_ignored(tmp_path, form):
    contents = {
        f"{number}.{form.lower()}": files.encode(SCENE, form, exif=b"Exif\0\0" + data)
        for number, data in enumerate(odd_exif())
    }
    counts, found = convert(write(tmp_path / "in", contents), tmp_path / "out", **WHOLE)
    assert counts["images"] == len(contents)
    assert all(np.median(np.abs(as_stored(content) - SCENE)) < 3 for _, content in found.values())


# ---- every form of pixels


@pytest.mark.parametrize("listed", [of_pixels, of_tiffs, of_profiles])
def test_every_form_of_pixels_gives_the_right_image_in_all_formats(tmp_path, listed):
    cases = {name: (content, np.asarray(expected).astype(int), far) for name, content, expected, far in listed()}
    folder = write(tmp_path / "in", {name: content for name, (content, _, _) in cases.items()})
    for encode_format, is_lossy in (("png", False), ("jpg", True), ("webp", True)):
        options = WHOLE | {"encode_format": encode_format}
        counts, found = convert(folder, tmp_path / encode_format, **options)
        lost = {name: row["error_message"] for name, (row, content) in found.items() if content is None}
        assert (counts["images"], lost) == (len(cases), {})
        for name, (_, expected, far) in cases.items():
            off = np.abs(as_stored(found[name][1]) - expected)
            if is_lossy:  # colours are blurred at edges
                off = np.quantile(off, 0.75) - 8
            assert np.max(off) <= far, (name, encode_format)


@pytest.mark.parametrize("listed", [of_pixels, of_tiffs, of_profiles])
def test_the_decoder_of_other_stages_gives_the_same(listed):
    for name, content, expected, far in listed():
        found = np.asarray(decode_image(content, where=name)).astype(int)
        assert np.abs(found - expected).max() <= far, name


def test_plain_images_keep_their_bytes_and_others_do_not(tmp_path):
    profile = files.rgb_profile(files.ADOBE_RGB, 2.2)
    text = (b"tEXt", b"prompt\0a scene")
    kept = {
        "rgb.png": files.encode(SCENE, "PNG"),
        "grey.png": files.encode(GREY, "PNG"),
        "palette.png": files.encode(Image.fromarray(SCENE).convert("P"), "PNG"),
        "text.png": files.raw_png(SCENE, kind=2, further=[text]),
        "upright.png": files.encode(SCENE, "PNG", exif=files.exif(1)),
        "srgb.png": files.encode(SCENE, "PNG", icc_profile=files.rgb_profile(files.SRGB, 2.2)),
    }
    made = {
        "turned.png": files.turned(SCENE, 6, "PNG"),
        "rgba.png": files.encode(np.dstack([SCENE, np.full((32, 48), 255, np.uint8)]), "PNG"),
        "deep.png": files.raw_png(SCENE.astype(np.uint16) * 257, kind=2),
        "adobe.png": files.encode(SCENE, "PNG", icc_profile=profile),
        "moving.png": files.encode(SCENE, "PNG", save_all=True, append_images=[Image.new("RGB", (48, 32))]),
        "other.jpg": files.encode(SCENE, "JPEG"),
    }
    folder = write(tmp_path / "in", kept | made)
    _, found = convert(folder, tmp_path / "out", **WHOLE)
    linear = {"srgb.png"}  # a power of 2.2 is not quite the curve of sRGB
    assert {name for name, content in kept.items() if found[name][1] != content} == linear
    assert not [name for name, content in made.items() if found[name][1] == content]
    _, found = convert(folder, tmp_path / "again", **WHOLE, skip_reencode=False)
    assert all(found[name][1] != content for name, content in kept.items())


# ---- what is refused


def test_what_is_refused_is_counted_by_its_cause_in_little_time_and_memory(tmp_path):
    cases = {name: (content, cause) for name, content, cause in hostile_images()}
    contents = {name: content for name, (content, _) in cases.items()} | {"good.png": files.encode(SCENE, "PNG")}
    began, largest = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    counts, found = convert(write(tmp_path / "in", contents), tmp_path / "out", **WHOLE)
    found_causes = {name: row["error_message"] for name, (row, content) in found.items() if content is None}
    expected = pd.Series([cause for _, cause in cases.values()]).value_counts().to_dict()
    failures = {name.removeprefix("failed_"): count for name, count in counts.items() if name.startswith("failed_")}
    assert failures == expected, found_causes
    assert counts["images"] == 1
    assert counts["rows"] == len(contents)
    for name, words in {
        "page.jpg": "HTML page",
        "photo.jpg": "HEIC",
        "program.jpg": "PostScript",
        "layers.jpg": "PSD",
    }.items():
        assert words in found[name][0]["error_message"]
    assert max(len(content) for content in contents.values()) < 700_000
    assert time.monotonic() - began < 150  # on a machine that may be busy
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(largest, 1_000_000)  # kB, of a child


def test_in_this_process_the_same_causes_are_found():
    for name, content, cause in hostile_images():
        with pytest.raises(ItemFault) as caught:
            decode(content, max_pixels=MAX_PIXELS)
        assert caught.value.cause == cause, name


def cut_images():
    further: dict[str, tuple[str, dict[str, Any]]] = {"gif": ("GIF", {}), "bmp": ("BMP", {}), "avif": ("AVIF", {})}
    for suffix, (form, options) in {**FORMS, **further}.items():
        noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
        whole = files.encode(Image.fromarray(noise).quantize(256) if form == "GIF" else noise, form, **options)
        for part in range(1, 20):
            yield f"{part:02d}-{suffix}.jpg", whole[: len(whole) * part // 20], whole


def test_an_image_that_is_cut_off_anywhere_is_counted(tmp_path):
    contents = {name: content for name, content, _ in cut_images()}
    counts, found = convert(write(tmp_path / "in", contents), tmp_path / "out", **WHOLE)
    assert not [name for name, (_, content) in found.items() if content is not None]
    assert counts["rows"] == len(contents)
    assert counts["failed_truncated_image"] + counts["failed_corrupt_image"] == len(contents), counts


def test_limits_of_time_and_memory_cost_one_image_each(tmp_path):
    slow = files.encode(np.zeros((6000, 6000, 3), np.uint8), "PNG", compress_level=1)
    contents = {"slow.png": slow, **{f"{number}.png": files.encode(SCENE, "PNG") for number in range(3)}}
    folder = write(tmp_path / "in", contents)
    limits: dict[str, dict[str, Any]] = {"time": {"decoder_seconds": 0.1}, "memory": {"decoder_memory": 12_000_000}}
    for name, limit in limits.items():
        counts, found = convert(folder, tmp_path / name, **WHOLE, **limit)
        assert (counts["images"], counts["failed_decoder_limit"]) == (3, 1), name
        assert found["slow.png"][0]["error_message"].startswith("limit of the decoder exceeded: "), name
    counts, _ = convert(folder, tmp_path / "off", **WHOLE, decoder_seconds=0.1, isolate_decoding=False)
    assert counts["images"] == 4


def test_a_list_of_addresses_gives_the_same(tmp_path):
    cases = {
        "turned.jpg": files.turned(files.scene(96, 64), 6, "JPEG", quality=95),
        "deep.png": files.raw_png(files.scene(96, 64).astype(np.uint16) * 257, kind=2),
        "bomb.png": files.png_bomb(),
        "page.jpg": b"<html>",
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0",
    }
    folder = write(tmp_path / "in", cases)
    with serve_folder(folder) as base:
        (tmp_path / "list.txt").write_text("\n".join(f"{base}/{name}" for name in cases))
        counts, found = convert(
            tmp_path / "list.txt", tmp_path / "out", **WHOLE | {"resize_mode": "keep_ratio", "image_size": 32}
        )
    assert counts == {
        "rows": 5, "images": 2, "captioned": 0, "failed_image_too_large": 1, "failed_unsupported_format": 2
    }  # fmt: skip
    for name in ("turned.jpg", "deep.png"):
        pixels = as_stored(found[name][1])
        assert pixels.shape == (32, 48, 3)
        assert np.abs(pixels[4, 4] - files.CORNERS[0]).max() < 30
        assert np.abs(pixels[-4, -4] - files.CORNERS[3]).max() < 30
