"""The finished model as people use it in Python."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline import TextToImage
from pipeline.errors import UsageError
from stages.contract.errors import InputFault
from stages.inference.sampling import SamplingSettings
from tests.factories import save_image, save_tiny_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    settings = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=3))
    return TextToImage.load(save_tiny_bundle(tmp_path_factory.mktemp("made"), settings), device="cpu")


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_prompts_seed_and_settings_decide_the_images(model: TextToImage) -> None:
    first, second = model.generate(["a red star", "a blue ring"], seed=4)
    assert (first.size, first.mode, model.resolution, model.run) == ((32, 32), "RGB", 32, "tiny-1")
    alone = np.asarray(model.generate("a red star", seed=4)[0]).astype(int)
    assert np.abs(alone - np.asarray(first)).max() <= 1  # batches of other sizes round differently
    assert same(model.generate(["a red star", "a blue ring"], seed=4)[1], second)
    assert not same(model.generate("a red star", seed=5)[0], first)
    assert not same(model.generate("a red star", seed=4, decoder_steps=6)[0], first)
    assert model.settings["decoder_steps"] == 3
    assert model.generate([]) == []


def test_images_are_varied_interpolated_and_edited(model: TextToImage, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png") or tmp_path / "a.png"
    with Image.open(path) as opened:
        of_path, of_image = model.vary(path, 2), model.vary(opened.copy(), 2)
    assert all(same(one, other) for one, other in zip(of_path, of_image, strict=True))
    assert not same(*of_path)
    trajectory = model.interpolate(path, "a blue ring", 3)
    assert len(trajectory) == 3
    assert same(trajectory[0], of_path[0])  # the start itself
    assert same(model.edit(path, "a blue ring", strength=0.5), model.edit(str(path), "a blue ring", strength=0.5))
    moved = model.edit(path, "a blue ring", instead_of="a red star")
    assert not same(moved, model.edit(path, "a blue ring", instead_of="a red star", strength=-4.0))


def test_images_of_pillows_are_turned_upright(model: TextToImage, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert same(model.vary(opened)[0], model.vary(upright)[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr"])
def test_images_of_pillows_may_have_any_mode(model: TextToImage, mode: str) -> None:
    assert model.vary(Image.new(mode, (12, 12)))[0].size == (32, 32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: model.generate("a", decoder_sharpness=3), UsageError, "found decoder_sharpness: allowed are"),
        (lambda model: model.generate("a", decoder_steps=0), UsageError, "num_steps: found 0"),
        (lambda model: model.generate([3]), UsageError, "prompts: found 3: expected texts"),
        (lambda model: model.generate("a" * 10_001), UsageError, "at most 10000 characters"),
        (lambda model: model.generate("\ud800"), UsageError, "in UTF-8"),
        (lambda model: model.generate("a", seed=-1), UsageError, "from seed -1"),
        (lambda model: model.vary("nowhere.png"), InputFault, r"image nowhere\.png: cannot be read"),
        (lambda model: model.vary(Image.new("RGB", (8, 8)), 0), UsageError, "found 0 images"),
        (lambda model: model.vary(Image.new("RGB", (8, 800))), InputFault, "at most 32 to 1"),
        (lambda model: model.interpolate("a", "b", 1), UsageError, "expected 2 or more"),
        (lambda model: model.edit(Image.new("RGB", (8, 8)), "a", strength=1.5), UsageError, "strength: found 1.5"),
        (lambda model: model.generate_unconditional(2), UsageError, "prior"),
        (lambda model: TextToImage.load("nowhere", store="none"), UsageError, "run nowhere: not found in the store"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    model: TextToImage, call: Callable[[TextToImage], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(model)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, pipeline; assert 'torch' not in sys.modules; print(pipeline.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['TextToImage']"


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_weights_that_are_no_numbers_give_no_black_images(tmp_path: Path, part: str) -> None:
    settings = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=3))
    model = TextToImage.load(save_tiny_bundle(tmp_path, settings), device="cpu")
    for weight in getattr(model._system, f"_{part}").parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(InputFault, match=f"1 of 1 samples of the {part} hold numbers that are not finite"):
        model.generate(["a red star"])
    with pytest.raises(InputFault, match="not finite"):
        model._system.rows_agree()
