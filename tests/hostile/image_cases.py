"""Cases of images: what each is to become, or the cause under which it is counted."""

import zlib
from typing import Any, Literal

import numpy as np
from PIL import Image

from tests.hostile import image_files as files

GREY = np.rint(np.linspace(0, 255, 32 * 48).reshape(32, 48)).astype(np.uint8)
SCENE = files.scene(48, 32)


WITH_PROFILES: tuple[tuple[str, dict[str, Any]], ...] = (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}))


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def odd_exif():
    good = files.exif(6)
    yield from (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", bytes(64), good[:-8], b"\xff" * 40)
    yield good[:10] + b"\x12\x01\x02\0\xff\xff\xff\xff\x08\0\0\0" + bytes(4)  # a text of 4 GB
    yield good[:10] + b"\x69\x87\x04\0\1\0\0\0\x08\0\0\0" + bytes(4)  # a directory that is in itself
    yield from (files.exif(value, kind="I") for value in (0, 9, 65535, 2**32 - 1))


def palette_image(transparency=None):
    image = Image.fromarray(SCENE).quantize(4)
    indices = np.asarray(image)
    if transparency is not None:
        image.info["transparency"] = transparency(indices[0, 0])
    return image


def transparent_palette(index):
    return bytes(0 if number == index else 255 for number in range(4))


def of_pixels():
    """Yield name, file, expected pixels and how far they may be from it."""
    half = np.full((32, 48), 128, np.uint8)
    rgba = np.dstack([SCENE, half])
    on_white = np.rint(SCENE * (128 / 255) + 127)
    hole = SCENE.copy()
    hole[:16, :24] = 255
    deep = SCENE.astype(np.uint16) * 257
    yield "grey.png", files.encode(GREY, "PNG"), three(GREY), 0
    yield "grey16.png", files.raw_png(GREY.astype(np.uint16)[..., None] * 257, kind=0), three(GREY), 0
    yield "rgb16.png", files.raw_png(deep, kind=2), SCENE, 0
    yield "rgba16.png", files.raw_png(np.dstack([deep, half.astype(np.uint16) * 257]), kind=6), on_white, 1
    yield (
        "la16.png",
        files.raw_png(np.dstack([GREY, half]).astype(np.uint16) * 257, kind=4),
        np.rint(three(GREY) * (128 / 255) + 127),
        1,
    )
    yield "rgba.png", files.encode(rgba, "PNG"), on_white, 1
    yield "la.png", files.raw_png(np.dstack([GREY, half]), kind=4), np.rint(three(GREY) * (128 / 255) + 127), 1
    yield "key.png", files.encode(SCENE, "PNG", transparency=files.CORNERS[0]), hole, 0
    key16 = b"".join(value.to_bytes(2, "big") for value in deep[0, 0].tolist())
    yield "key16.png", files.raw_png(deep, kind=2, further=[(b"tRNS", key16)]), hole, 0
    white_key = np.where(GREY == 60, 255, GREY)
    yield "greykey.png", files.encode(GREY, "PNG", transparency=60), three(white_key), 0
    yield (
        "bit.png",
        files.encode(Image.fromarray(GREY).point(lambda v: v > 127, "1"), "PNG"),
        three(np.where(GREY > 127, 255, 0)),
        0,
    )
    yield "palette.png", files.encode(palette_image(), "PNG"), SCENE, 1
    yield "hole.png", files.encode(palette_image(transparent_palette), "PNG"), hole, 1
    yield "hole.gif", files.encode(palette_image(int), "GIF"), hole, 1
    frames = [Image.fromarray(np.full_like(SCENE, value)).quantize(4) for value in (10, 200)]
    yield "animated.gif", files.encode(palette_image(), "GIF", save_all=True, append_images=frames), SCENE, 1
    later = [Image.fromarray(np.full_like(SCENE, value)) for value in (10, 200)]
    for form in ("PNG", "WEBP"):
        lossless = {"lossless": True} if form == "WEBP" else {}
        moving = files.encode(SCENE, form, save_all=True, append_images=later, duration=50, **lossless)
        yield f"animated.{form.lower()}", moving, SCENE, 0
    yield "rgba.webp", files.encode(rgba, "WEBP", lossless=True, exact=True), on_white, 1
    yield "scene.bmp", files.encode(SCENE, "BMP"), SCENE, 0
    yield "palette.bmp", files.encode(palette_image(), "BMP"), SCENE, 1
    yield "cmyk.jpg", files.encode(Image.fromarray(SCENE).convert("CMYK"), "JPEG", quality=100, subsampling=0), SCENE, 6
    flat = np.tile(np.array([30, 90, 180, 240], np.uint8).repeat(12), (32, 1))
    yield "scene-avif.jpg", files.encode(three(flat), "AVIF", quality=100), three(flat), 4


def of_tiffs():
    """Yield the same of the samples that TIFF alone has."""
    half = np.full((32, 48), 128, np.uint8)
    rgba = np.dstack([SCENE, half])
    on_white = np.rint(SCENE * (128 / 255) + 127)
    deep, linear = SCENE.astype(np.uint16) * 257, GREY / 255
    yield "cmyk.tiff", files.encode(Image.fromarray(SCENE).convert("CMYK"), "TIFF"), SCENE, 2
    yield "ycbcr.tiff", files.encode(Image.fromarray(SCENE), "TIFF", compression="jpeg", quality=100), SCENE, 30
    yield (
        "lab.tiff",
        files.encode(Image.fromarray(np.full((8, 8), 255, np.uint8)).convert("RGB"), "TIFF"),
        np.full((8, 8, 3), 255),
        0,
    )
    yield "palette.tiff", files.encode(palette_image(), "TIFF"), SCENE, 1
    yield "lzw.tiff", files.encode(SCENE, "TIFF", compression="tiff_lzw"), SCENE, 0
    orders: tuple[tuple[str, Literal["<", ">"]], ...] = (("little", "<"), ("big", ">"))
    for name, order in orders:
        kinds: dict[str, np.ndarray] = {
            "u8": GREY, "u16": GREY.astype(np.uint16) * 257, "i16": (linear * 32767).round().astype(np.int16),
            "i32": (linear * (2**31 - 1)).astype(np.int32), "f32": linear.astype(np.float32), "f64": linear,
            "f32of255": GREY.astype(np.float32), "i32of65535": GREY.astype(np.int32) * 257,
        }  # fmt: skip
        for kind, values in kinds.items():
            yield f"{name}-{kind}.tiff", files.tiff(values, order=order), three(GREY), 1
        for kind in ("u8", "u16"):
            inverted = files.tiff(kinds[kind], order=order, photometric=0)
            yield f"{name}-{kind}-inverted.tiff", inverted, three(255 - GREY), 1
        colours: dict[str, np.ndarray] = {"u16": deep, "f32": (SCENE / 255).astype(np.float32), "f64": SCENE / 255}
        for kind, values in colours.items():
            yield f"{name}-rgb-{kind}.tiff", files.tiff(values, order=order), SCENE, 1
        yield f"{name}-rgba-u16.tiff", files.tiff(rgba.astype(np.uint16) * 257, order=order, extra=2), on_white, 1
        yield f"{name}-rgba-f32.tiff", files.tiff((rgba / 255).astype(np.float32), order=order, extra=2), on_white, 1
    yield "u32.tiff", files.tiff((linear * (2**32 - 1)).astype(np.uint32)), three(GREY), 1
    premultiplied = np.dstack([np.rint(SCENE * (128 / 255)).astype(np.uint8), half])
    yield "premultiplied.tiff", files.tiff(premultiplied, extra=1), on_white, 2
    yield "ignored.tiff", files.tiff(rgba, extra=0), SCENE, 0


def of_profiles():
    for name, primaries in {"p3": files.DISPLAY_P3, "adobe": files.ADOBE_RGB}.items():
        expected = files.in_srgb(SCENE, primaries, 2.2)
        profile = files.rgb_profile(primaries, 2.2)
        for form, options in WITH_PROFILES:
            yield f"{name}.{form.lower()}", files.encode(SCENE, form, icc_profile=profile, **options), expected, 3
        jpeg = files.encode(SCENE, "JPEG", icc_profile=profile, quality=100, subsampling=0)
        yield f"{name}.jpg", jpeg, expected, 12
        rgba = np.dstack([SCENE, np.full((32, 48), 128, np.uint8)])
        yield (
            f"{name}-rgba.png",
            files.encode(rgba, "PNG", icc_profile=profile),
            np.rint(expected * (128 / 255) + 127),
            3,
        )
        indexed = files.encode(palette_image(), "PNG", icc_profile=profile)
        yield f"{name}-palette.png", indexed, expected, 3
        deep = files.raw_png(
            SCENE.astype(np.uint16) * 257, kind=2, further=[(b"iCCP", b"p\0\0" + zlib.compress(profile))]
        )
        yield f"{name}-16.png", deep, expected, 3
    grey = files.encode(GREY, "PNG", icc_profile=files.grey_profile(1.8))
    yield "grey.png", grey, three(files.from_linear((GREY / 255) ** 1.8)), 3
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, 16:] = (255, 255, 0, 0)
    expected = np.full((16, 32, 3), 255)
    expected[:, 16:] = 0
    image = Image.frombytes("CMYK", (32, 16), inks.tobytes())
    yield "inks.tiff", files.encode(image, "TIFF", icc_profile=files.cmyk_profile()), expected, 4
    yield "inks.jpg", files.encode(image, "JPEG", icc_profile=files.cmyk_profile(), quality=100), expected, 8
    sound = files.rgb_profile(files.ADOBE_RGB, 2.2)
    damaged = {"short": sound[:200], "zeros": bytes(300), "no": b"x", "tags": sound[:128] + b"\xff" * 400,
               "grey": files.grey_profile(1.0), "inks": files.cmyk_profile()}  # fmt: skip
    for name, profile in damaged.items():
        for form, options in WITH_PROFILES:
            yield f"{name}.{form.lower()}", files.encode(SCENE, form, icc_profile=profile, **options), SCENE, 0
    part = b"\xff\xe2" + (2 + 12 + 1).to_bytes(2, "big") + b"ICC_PROFILE\0" + b"\1"
    jpeg = files.encode(SCENE, "JPEG", quality=100, subsampling=0)
    yield "part.jpg", jpeg[:2] + part + jpeg[2:], SCENE, 12


def hostile_images():
    """Yield name, file and the cause under which it is counted."""
    yield "bomb.png", files.png_bomb(), "image_too_large"
    yield "wide.png", files.png_bomb(2**31 - 1, 1), "image_too_large"
    for kind in (b"iCCP", b"zTXt", b"IDAT", b"eXIf", b"tEXt"):
        yield f"claims-{kind.decode()}.png", files.png_of_claimed_chunk(kind), "corrupt_image"
    yield "ztxt.png", files.text_bomb(b"zTXt", 50_000_000), "decoder_limit"
    yield "itxt.png", files.text_bomb(b"iTXt", 50_000_000), "decoder_limit"
    yield "many-ztxt.png", files.text_bomb(b"zTXt", 1_000_000, repeats=60), "decoder_limit"
    yield "screen.gif", files.gif_of_screen(65535, 65535), "image_too_large"
    yield "frame.gif", files.gif_of_frame(65535, 65535), "image_too_large"
    yield "canvas.webp", files.webp_of_canvas(16383, 16383), "image_too_large"
    yield "size.tiff", files.tiff_of_claims(tag_256=("I", [70_000]), tag_257=("I", [70_000])), "image_too_large"
    tiles = {"tag_322": ("I", [2**30]), "tag_323": ("I", [2**30]), "tag_324": ("I", [8])}
    yield "tile.tiff", files.tiff_of_claims(**tiles), "decoder_limit"
    yield "preview.tiff", files.tiff_of_claims(tag_254=("I", [1])), "unsupported_format"
    yield "unknown.tiff", files.tiff(np.full((4, 4), 1e9, np.float32)), "unsupported_format"
    yield "nan.tiff", files.tiff(np.full((4, 4), np.nan, np.float32)), "unsupported_format"
    yield "planes.tiff", files.tiff(SCENE.astype(np.uint16), is_planar=True), "unsupported_format"
    yield "scans.jpg", files.many_scans_jpeg(64, 1000), "decoder_limit"
    yield "large-avif.jpg", files.avif_of_size(20_000, 20_000), "corrupt_image"
    yield "large2-avif.jpg", files.avif_of_size(4000, 4000), "corrupt_image"
    yield "small-avif.jpg", files.avif_of_size(8, 8), "corrupt_image"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "unsupported_format"
    yield "page.png", b"\xef\xbb\xbf  <HTML>", "unsupported_format"
    yield "paper.jpg", b"%PDF-1.7\n%\xe2\xe3", "unsupported_format"
    yield "program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(ls) system\n", "unsupported_format"
    yield "binary.png", b"\xc5\xd0\xd3\xc6" + bytes(64), "unsupported_format"
    yield "drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"
    yield "photo.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "unsupported_format"
    yield "wave.jpg", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "unsupported_format"
    yield "layers.jpg", b"8BPS\0\1" + bytes(64), "unsupported_format"
    yield "texture.png", b"DDS " + bytes(124), "unsupported_format"
    yield "sprite.png", b"BLP2" + bytes(124), "unsupported_format"
    yield "pixmap.png", b"P6 2 2 255\n" + bytes(12), "unsupported_format"
    yield "text.jpg", b"no image at all", "corrupt_image"
    yield "empty.jpg", b"", "corrupt_image"
    yield "signature.png", b"\x89PNG\r\n\x1a\n", "corrupt_image"
    yield "marker.jpg", b"\xff\xd8\xff", "truncated_image"
    yield "flipped.webp", b"RIFF\x04\0\0\0WEBP", "corrupt_image"
