"""Sizes of images that do not go together are refused before anything starts."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.errors import UsageError

CASCADE = Path(__file__).resolve().parents[4] / "configs" / "decoders" / "pixel_diffusion.yaml"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["download_shards.image_size=32"],
            r"train_upsampler\.resolution is 64, and download_shards\.image_size is 3",
        ),
        (
            ["train_decoder.resolution=64"],
            r"train_upsampler\.from_resolution is 32: allowed is 64, which is train_d",
        ),
        (["generate.upsamplers=2"], "generate: needs the stage train_second_upsampler, which has no section"),
        (["train_upsampler.crop=20"], r"crop is 20: allowed is a multiple of 8"),
        (
            ["train_decoder.process.target=noise"],
            r"decoder\.process\.target: found 'noise': expected one of sample",
        ),
    ],
)
def test_what_does_not_fit_is_reported(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(CASCADE, overrides)


@pytest.mark.parametrize("word", ["no", "'no'"])
def test_images_that_are_not_resized_may_be_of_any_size(word: str) -> None:
    config = load_config(CASCADE, ["download_shards.image_size=32", f"download_shards.resize_mode={word}"])
    assert config.download_shards is not None
    assert config.download_shards.resize_mode == "no"
    assert config.generate is not None
    assert config.generate.upsampler_stages == ("train_upsampler",)
