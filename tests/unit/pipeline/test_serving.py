import io
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec, PixelUNet
from models.decoders.sampling import DecoderSampling
from models.decoders.stylegan2.spec import StyleGan2Spec
from models.decoders.upsampler.spec import UpsamplerSpec, UpsamplerUNet
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from models.priors.spec import PriorSampling
from models.retrieval.spec import RetrievalSampling
from pipeline.export.bundle import load_bundle, write_bundle
from pipeline.serving import TextToImagePredictor, serving_settings
from stages.contract.errors import ArtifactError
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip, T5StatesConfig, TextStatesConfig
from stages.formats.model_folders import save_model
from stages.inference.loading import TrainedModels
from stages.inference.sampling import SamplingSettings
from stages.storage.artifact import Artifact, Output
from tests.factories import save_tiny_clip, save_tiny_decoder, save_tiny_prior, save_tiny_t5
from tests.specs import make_autoencoder_spec, make_spec

SETTINGS = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=2))


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
    write_bundle(target, TrainedModels(config, prior, decoder), SETTINGS, run="quickstart-1")
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
    assert predictor.predict([]).columns.tolist() == ["prompt", "seed", "image"]


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


def test_the_served_model_takes_every_sampling_setting_that_exists() -> None:
    parts = {"prior": PriorSampling, "decoder": DecoderSampling, "retrieval": RetrievalSampling}
    exist = {(part, item.name): item.default for part, settings in parts.items() for item in fields(settings)}
    served = serving_settings(SamplingSettings())
    assert served.pop("seed") == ("long", 0)
    assert [default for _, default in served.values()] == list(exist.values())
    long = {"steps": "num_steps", "guidance": "guidance_scale"}
    names = [tuple(name.split("_", 1)) for name in served]
    assert [(part, long.get(name, name)) for part, name in names] == list(exist)
    assert {served[name][0] for name in ("prior_steps", "decoder_top_k", "decoder_upsampling_steps")} == {"long"}
    assert {served[name][0] for name in ("prior_eta", "decoder_dynamic_threshold")} == {"double"}
    assert {served[name][0] for name in ("prior_sampler", "prior_variance")} == {"string"}


def save_vq_decoder(folder: Path, embed_dim: int, clip: object) -> None:
    codebook = make_autoencoder_spec(
        "vq", resolution=16, unshuffle=4, channels=(16,), blocks_per_level=1, latent_channels=3, attention=False,
        num_codes=8,
    )  # fmt: skip
    shape = {"embed_dim": embed_dim, "width": 32, "num_layers": 1, "num_heads": 2, "layout_channels": 0}
    spec = make_spec(VQAutoregressiveSpec, autoencoder=codebook, **shape)
    save_random(folder, spec.build(), {"model": spec.to_dict(), "clip": clip})


def save_pixel_decoder(folder: Path, embed_dim: int, clip: object) -> None:
    network = PixelUNet(channels=(32, 32), layout_channels=0, token_dim=16)
    spec = PixelDiffusionSpec(embed_dim=embed_dim, resolution=32, network=network)
    save_random(folder, spec.build(), {"model": spec.to_dict(), "clip": clip})


def save_style_decoder(folder: Path, embed_dim: int, clip: object) -> None:
    shape = {"resolution": 16, "channels": (8, 8), "patch_size": 2, "style_dim": 8, "mapping_rate": 1.0}
    spec = make_spec(StyleGan2Spec, embed_dim=embed_dim, **shape)
    torch.manual_seed(0)
    output = Output(str(folder), "train_decoder", "tiny")
    save_model(output, "decoder", spec.build(), {"model": spec.to_dict(), "clip": clip})


def save_random(folder: Path, model: torch.nn.Module, document: dict[str, object]) -> None:
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    save_model(Output(str(folder), "train_decoder", "tiny"), "decoder", model, document)


@pytest.mark.parametrize(
    ("kind", "before", "change"),
    [
        ("pixel_diffusion", {}, {"prior_steps": 5}),
        ("pixel_diffusion", {}, {"prior_guidance": 3.0}),
        ("pixel_diffusion", {"prior_steps": 4}, {"prior_sampler": "ddim"}),
        ("pixel_diffusion", {"prior_steps": 4}, {"prior_variance": "posterior"}),
        ("pixel_diffusion", {"prior_steps": 4, "prior_sampler": "ddim"}, {"prior_eta": 1.0}),
        ("pixel_diffusion", {"prior_guidance": 3.0}, {"prior_guidance_rescale": 1.0}),
        ("pixel_diffusion", {}, {"decoder_steps": 5}),
        ("pixel_diffusion", {}, {"decoder_guidance": 30.0}),
        ("pixel_diffusion", {"decoder_guidance": 1000.0}, {"decoder_dynamic_threshold": 0.5}),
        ("vq_autoregressive", {}, {"decoder_temperature": 0.1}),
        ("vq_autoregressive", {}, {"decoder_top_k": 1}),
        ("stylegan2", {}, {"decoder_truncation": 0.0}),
        ("cascade", {}, {"decoder_upsampling_steps": 5}),
        ("cascade", {}, {"decoder_noise_augmentation": 1.0}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else value,
)
def test_every_sampling_setting_changes_the_image(
    kind: str,
    before: dict[str, float | str],
    change: dict[str, float | str],
    predictors: dict[str, TextToImagePredictor],
) -> None:
    first, other = (
        predictors[kind].predict("a red star", params)["image"][0] for params in (before, {**before, **change})
    )
    written = json.loads(Image.open(io.BytesIO(other)).info["settings"])
    assert {name: written[name] for name in change} == change
    assert not np.array_equal(pixels(first), pixels(other))


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImagePredictor]:
    """A served model of every kind of decoder that has settings of its own."""
    folder = tmp_path_factory.mktemp("kinds")
    clip = save_tiny_clip(folder / "clip")
    config = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    encoder, prior = ClipEncoder(config), save_tiny_prior(folder / "p", clip)
    save_pixel_decoder(folder / "pixel_diffusion", encoder.embed_dim, encoder.identities.to_json())
    save_tiny_decoder(folder / "cascade", clip)
    save_vq_decoder(folder / "vq_autoregressive", encoder.embed_dim, encoder.identities.to_json())
    save_style_decoder(folder / "stylegan2", encoder.embed_dim, encoder.identities.to_json())
    levels = {"cascade": [save_tiny_upsampler(folder / "u", clip, 32)]}
    made = {}
    for kind in ("pixel_diffusion", "vq_autoregressive", "stylegan2", "cascade"):
        decoder, bundle = Artifact(str(folder / kind), "train_decoder", "tiny"), folder / f"{kind}-bundle"
        write_bundle(bundle, TrainedModels(config, prior, decoder, levels.get(kind, ())), SETTINGS, run="kinds-1")
        made[kind] = TextToImagePredictor(*load_bundle(bundle))
    return made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prior_steps": 0}, r"PriorSampling\.num_steps: found 0: expected 1 to 10000"),
        ({"prior_sampler": "midpoint"}, "sampler: found 'midpoint': expected null or one of ancestral, ddim"),
        ({"prior_eta": 0.5}, "eta: found 0.5: expected 0 with sampler null"),
        ({"decoder_top_k": 0}, "top_k: found 0: expected 1 or more, or none"),
        ({"decoder_noise_augmentation": 1.5}, "noise_augmentation: found 1.5: expected 0 to 1"),
        ({"decoder_stepz": 1}, "found decoder_stepz: allowed are prior_"),
    ],
)
def test_an_impossible_sampling_setting_is_refused(
    predictor: TextToImagePredictor, change: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        predictor.predict("a red star", change)  # type: ignore[arg-type]


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
    network = UpsamplerUNet(channels=(32,), blocks_per_level=1)
    spec = UpsamplerSpec(embed_dim=encoder.embed_dim, from_resolution=side, resolution=2 * side, network=network)
    output = Output(str(folder), "train_upsampler", "tiny")
    save_model(output, "upsampler", spec.build(), {"model": spec.to_dict(), "clip": encoder.identities.to_json()})
    return output


def test_a_cascade_comes_whole(tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    config = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    prior, decoder = save_tiny_prior(tmp_path / "p", clip), save_tiny_decoder(tmp_path / "d", clip, resolution=32)
    levels = [save_tiny_upsampler(tmp_path / str(side), clip, side) for side in (32, 64)]
    write_bundle(tmp_path / "bundle", TrainedModels(config, prior, decoder, levels), SETTINGS, run="cascade-1")
    predictor = TextToImagePredictor(*load_bundle(tmp_path / "bundle"))
    assert pixels(predictor.predict("a red star")["image"][0]).shape == (128, 128, 3)
