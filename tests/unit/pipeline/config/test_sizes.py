"""Sizes of images that do not go together are refused before anything starts."""

import json
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


BUCKETS = ["train_decoder.resolution=64", "train_decoder.buckets={step: 16}", "train_upsampler=null",
           "generate.upsamplers=0", "download_shards.resize_mode=keep_ratio"]  # fmt: skip
UPSAMPLER = "{from_resolution: 64, resolution: 128, training: {num_steps: 1, batch_size: 1, learning_rate: 0.1}}"
LATENT = CASCADE.with_name("latent_diffusion.yaml")


def test_buckets_fit_what_keeps_aspect_ratios() -> None:
    config = load_config(CASCADE, [*BUCKETS, "evaluate=null", "generate.decoder.size=80x48"])
    assert config.generate is not None
    assert config.generate.sampling.flat()["decoder_size"] == "80x48"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["download_shards.resize_mode=center_crop"], "resize_mode is center_crop, which makes squares of all images"),
        (["download_shards.resize_mode=border"], r"to keep_ratio \(allowed are keep_ratio, keep_ratio_largest, no\)"),
        (
            ["download_shards.resize_mode=keep_ratio_largest", "download_shards.image_size=72"],
            "longest side has 80",
        ),
        (
            ["download_shards.image_size=128", f"train_upsampler={UPSAMPLER}"],
            "train_upsampler: found beside train_dec",
        ),
        (["generate.decoder.size=80x48"], "evaluate compares squares: allowed is null"),
        (["generate.decoder.size=96x64"], r"decoder\.size: found 96x64: allowed are .* 48x80, 64x64, 80x48"),
        (["generate.decoder.size=large"], "size: found 'large': expected width and height in pixels, such as 96x64"),
        (["train_decoder.buckets={step: 12}"], "step: found 12: expected a multiple of"),
    ],
)
def test_buckets_that_do_not_fit_are_reported(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(CASCADE, [*BUCKETS, *overrides])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train_decoder.buckets={step: 8}"], r"set encode_latents\.buckets to {step: 8, max_aspect_ratio: 2\.0}"),
        (["encode_latents.buckets={step: 8}"], r"set encode_latents\.buckets to null"),
    ],
)
def test_latents_have_the_decoders_buckets(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(LATENT, ["download_shards.resize_mode=keep_ratio", *overrides])


def test_without_buckets_fingerprints_are_as_they_were() -> None:
    config = load_config(LATENT, [])
    for section in (config.train_decoder, config.encode_latents, config.generate):
        assert section is not None
        text = json.dumps(section.identity())
        assert '"buckets"' not in text
        assert '"size"' not in text


@pytest.mark.parametrize("word", ["no", "'no'"])
def test_images_that_are_not_resized_may_be_of_any_size(word: str) -> None:
    config = load_config(CASCADE, ["download_shards.image_size=32", f"download_shards.resize_mode={word}"])
    assert config.download_shards is not None
    assert config.download_shards.resize_mode == "no"
    assert config.generate is not None
    assert config.generate.upsampler_stages == ("train_upsampler",)
