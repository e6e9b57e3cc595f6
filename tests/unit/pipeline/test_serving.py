import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.decoders.upsampler.model import Upsampler
from models.decoders.upsampler.spec import UpsamplerConfig
from pipeline.serving import TextToImagePredictor, load_bundle, serving_settings, write_bundle
from stages.contract.errors import ArtifactError
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip, T5StatesConfig, TextStatesConfig
from stages.formats.model_folders import save_model
from stages.inference.text_to_image import SamplingSettings
from stages.storage.artifact import Artifact, Output
from tests.factories import save_tiny_clip, save_tiny_decoder, save_tiny_prior, save_tiny_t5

SETTINGS = SamplingSettings(prior_steps=2, prior_guidance=1.0, decoder_steps=2, decoder_guidance=1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose sources are gone: everything needed is inside."""
    folder = tmp_path_factory.mktemp("made")
    clip, t5 = save_tiny_clip(folder / "clip"), save_tiny_t5(folder / "t5")
    (t5 / "pytorch_model.bin").write_bytes(b"never loaded")
    config = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    states = TextStatesConfig(t5=T5StatesConfig(path=t5))
    prior = save_tiny_prior(folder / "p", clip, text_states=states)
    decoder = save_tiny_decoder(folder / "d", clip)
    target = tmp_path_factory.mktemp("moved") / "bundle"
    write_bundle(target, config, prior, decoder, SETTINGS, run="quickstart-1")
    shutil.rmtree(folder)
    return target


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> TextToImagePredictor:
    return TextToImagePredictor(*load_bundle(bundle))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def test_prompts_in_any_form_give_signed_images(predictor: TextToImagePredictor) -> None:
    table = predictor.predict(pd.DataFrame({"prompt": ["a red star", "a blue ring"]}), {"seed": 5})
    assert list(table.columns) == ["prompt", "seed", "image"]
    assert table["seed"].tolist() == [5, 6]
    info = Image.open(io.BytesIO(table["image"][1])).info
    assert (info["prompt"], info["seed"], info["run"]) == ("a blue ring", "6", "quickstart-1")
    assert json.loads(info["settings"])["decoder_steps"] == 2
    assert predictor.predict(["a red star", "a blue ring"], {"seed": 5}).equals(table)
    assert predictor.predict("a red star")["prompt"].tolist() == ["a red star"]


def test_settings_and_seed_change_the_image(predictor: TextToImagePredictor) -> None:
    first, again, other_seed, more_steps = (
        pixels(predictor.predict("a red star", params)["image"][0])
        for params in ({}, {"seed": 0}, {"seed": 1}, {"decoder_steps": 5})
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, more_steps)


def test_the_t5_that_the_prior_reads_comes_along(bundle: Path, predictor: TextToImagePredictor) -> None:
    held = {path.name for path in (bundle / "t5").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= held
    assert "pytorch_model.bin" not in held
    assert predictor.predict("a red star")["image"][0].startswith(b"\x89PNG")
    other = save_tiny_t5(bundle.parent / "other", seed=1)
    moved = bundle.parent / "changed"
    shutil.copytree(bundle, moved)
    shutil.copyfile(other / "model.safetensors", moved / "t5/model.safetensors")
    with pytest.raises(ArtifactError, match=r"the prior was trained on text states of t5"):
        load_bundle(moved)


def test_the_prior_s_sampler_is_a_setting_of_the_served_model(predictor: TextToImagePredictor) -> None:
    settings = serving_settings(SETTINGS)
    assert settings["prior_sampler"] == ("string", "ancestral")
    assert settings["prior_guidance_rescale"] == ("double", 0.0)
    first, other = (
        predictor.predict("a red star", {"prior_steps": 4, "prior_sampler": sampler})["image"][0]
        for sampler in ("ancestral", "ddim")
    )
    assert json.loads(Image.open(io.BytesIO(other)).info["settings"])["prior_sampler"] == "ddim"
    assert not np.array_equal(pixels(first), pixels(other))


def test_a_table_without_prompts_is_reported(predictor: TextToImagePredictor) -> None:
    with pytest.raises(ValueError, match=r"no column 'prompt' \(it has id, text\)"):
        predictor.predict(pd.DataFrame({"id": [1], "text": ["a"]}))


def test_a_folder_that_is_no_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read bundle\.json"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text('{"format": 99}')
    with pytest.raises(ArtifactError, match="has bundle format 99"):
        load_bundle(tmp_path)


def save_tiny_upsampler(folder: Path, clip: Path, side: int) -> Artifact:
    encoder = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip),)))
    config = UpsamplerConfig(
        embed_dim=encoder.embed_dim, from_resolution=side, resolution=2 * side, channels=(32,), blocks_per_level=1
    )
    output = Output(str(folder), "train_upsampler", "tiny")
    save_model(output, "upsampler", Upsampler(config), {"model": config.to_dict(), "clip": encoder.identities})
    return output


def test_a_cascade_comes_whole(tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    config = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    prior, decoder = save_tiny_prior(tmp_path / "p", clip), save_tiny_decoder(tmp_path / "d", clip, resolution=32)
    levels = [save_tiny_upsampler(tmp_path / str(side), clip, side) for side in (32, 64)]
    write_bundle(tmp_path / "bundle", config, prior, decoder, SETTINGS, run="cascade-1", upsamplers=levels)
    predictor = TextToImagePredictor(*load_bundle(tmp_path / "bundle"))
    assert pixels(predictor.predict("a red star")["image"][0]).shape == (128, 128, 3)
