"""A prior that reads text states draws with the encoders of its training, and with no others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.export.bundle import load_bundle, write_bundle
from stages.contract.errors import ArtifactError, InputFault
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip, LanguageModelSource, T5Source, TextModel, TextStatesConfig
from stages.encoders.text import make_text_encoder
from stages.formats.model_folders import load_model_config, load_model_state, save_model
from stages.inference.loading import TrainedModels, load_decoder, load_prior, load_text_to_image, prior_text_encoders
from stages.inference.sampling import SamplingSettings
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact, Output
from tests.factories import save_tiny_clip, save_tiny_decoder, save_tiny_language_model, save_tiny_prior, save_tiny_t5

SETTINGS = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=1))
PROMPTS = ["a red star", "a small blue ring at the top left", "green"]


class World:
    """A trained system in a folder: CLIP, T5, a prior that reads the states of both, a decoder."""

    def __init__(self, folder: Path) -> None:
        self.clip, self.t5 = save_tiny_clip(folder / "clip"), save_tiny_t5(folder / "t5")
        self.states = TextStatesConfig.model_validate({"t5": {"path": self.t5, "max_length": 6}, "clip": True})
        self.prior: Artifact = save_tiny_prior(folder / "prior", self.clip, text_states=self.states)
        self.decoder = save_tiny_decoder(folder / "decoder", self.clip)
        self.clips = ClipConfig(models=(FolderClip(kind="folder", path=self.clip),))

    def load(self, t5: Path | None = None, settings: SamplingSettings = SETTINGS) -> TextToImageSystem:
        source = {} if t5 is None else {"t5": T5Source(path=t5)}
        return load_text_to_image(
            TrainedModels(self.clips, self.prior, self.decoder, text_models=source), settings, batch_size=2
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_the_prior_is_given_the_states_that_it_was_trained_on(world: World) -> None:
    generated = world.load().imagine(PROMPTS, [3, 4, 5])
    prior, _ = load_prior(world.prior)
    text = make_text_encoder(ClipEncoder(world.clips), world.states, device="cpu").encode(PROMPTS).features()
    torch.testing.assert_close(generated, prior.sample(text, [6, 8, 10], SETTINGS.prior), rtol=1e-4, atol=1e-4)


def test_images_come_of_all_prompts(world: World) -> None:
    images = world.load().generate(PROMPTS, [0, 1, 2])
    assert images.shape == (3, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"prior_sampler": "ddim"},
        {"prior_sampler": "ddim", "prior_eta": 0.5},
        {"prior_sampler": "dpm_solver"},
        {"prior_variance": "posterior"},
        {"prior_guidance": 3.0},
        {"prior_guidance": 3.0, "prior_guidance_rescale": 0.7},
    ],
)
def test_every_setting_of_the_prior_reaches_it(world: World, changes: dict[str, float | str]) -> None:
    system = world.load(settings=SETTINGS.replaced({"prior_steps": 4}))
    less = dict(list(changes.items())[:-1])
    plain, changed = (system.with_settings(some).imagine(PROMPTS, [0, 1, 2]) for some in (less, changes))
    assert changed.isfinite().all()
    assert not torch.allclose(plain, changed)


def test_a_t5_that_has_moved_is_found_where_it_lies_now(world: World, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(world.t5, moved)
    here, there = (world.load(t5).imagine(PROMPTS, [0, 1, 2]) for t5 in (None, moved))
    assert torch.equal(here, there)


def test_another_t5_is_refused_with_both_named(world: World, tmp_path: Path) -> None:
    other = save_tiny_t5(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match=r"states of t5 .*/t5 \(.{8}, width 12\), but .*/other \(.{8}, width 12\)"):
        world.load(other)
    wide = save_tiny_t5(tmp_path / "wide", width=20)
    with pytest.raises(ArtifactError, match=r"width 12\), but .*/wide \(.{8}, width 20\) is there now: .*generate\.t5"):
        world.load(wide)


def test_a_missing_t5_names_the_key_to_set(tmp_path: Path) -> None:
    world = World(tmp_path)
    shutil.rmtree(world.t5)
    with pytest.raises(InputFault, match=r"generate\.t5\.path: there is no folder"):
        world.load()


def test_a_language_model_is_loaded_where_it_was_or_lies_now(world: World, tmp_path: Path) -> None:
    folder = save_tiny_language_model(tmp_path / "gpt2", "gpt2")
    states = TextStatesConfig.model_validate({"language_model": {"path": folder, "max_length": 6}, "clip": True})
    prior = save_tiny_prior(tmp_path / "prior", world.clip, text_states=states)
    assert list(prior_text_encoders(prior)) == ["language_model", "clip"]

    def embeddings(**text_models: TextModel) -> Tensor:
        system = load_text_to_image(TrainedModels(world.clips, prior, world.decoder, text_models=text_models), SETTINGS)
        return system.imagine(PROMPTS, [0, 1, 2])

    here = embeddings()
    text = make_text_encoder(ClipEncoder(world.clips), states, device="cpu").encode(PROMPTS).features()
    torch.testing.assert_close(here, load_prior(prior)[0].sample(text, [0, 2, 4], SETTINGS.prior), rtol=1e-4, atol=1e-4)
    moved = folder.rename(tmp_path / "elsewhere")
    assert torch.equal(embeddings(language_model=LanguageModelSource(path=moved)), here)
    with pytest.raises(InputFault, match=r"generate\.language_model\.path: there is no folder"):
        embeddings()
    other = save_tiny_language_model(tmp_path / "other", "gpt2", seed=1)
    with pytest.raises(ArtifactError, match=r"set generate\.language_model to the model of its training"):
        embeddings(language_model=LanguageModelSource(path=other))
    parts = TrainedModels(
        world.clips, prior, world.decoder, text_models={"language_model": LanguageModelSource(path=moved)}
    )
    write_bundle(tmp_path / "bundle", parts, SETTINGS, run="r")
    shutil.rmtree(moved)
    assert torch.equal(load_bundle(tmp_path / "bundle")[0].imagine(PROMPTS, [0, 1, 2]), here)


def test_a_configuration_of_another_version_is_reported(world: World, tmp_path: Path) -> None:
    output = Output(str(tmp_path), "train_prior", "old")
    output.write_json("prior/config.json", {"model": {"kind": "shifted", "size": 3}, "clip": []})
    with pytest.raises(ArtifactError, match=r"prior's configuration cannot be read .*'size'.*train anew"):
        load_prior(output)


def test_a_prior_without_states_needs_no_t5(world: World, tmp_path: Path) -> None:
    prior = save_tiny_prior(tmp_path, world.clip)
    system = load_text_to_image(TrainedModels(world.clips, prior, world.decoder), SETTINGS)
    assert np.isfinite(system.imagine(PROMPTS, [0, 1, 2]).numpy()).all()


def test_a_decoder_of_another_kind_or_version_is_reported(world: World, tmp_path: Path) -> None:
    saved = load_model_config(world.decoder, "decoder")
    output = Output(str(tmp_path), "train_decoder", "other")
    shape = {"embed_dim": 16, "resolution": 32, "network": {"channels": [8, 8], "patch_size": 2}}
    for model, fault in (
        ({"kind": "stylegan2", **shape}, "the weights do not fit the configuration beside them .*train anew"),
        ({**saved["model"], "kind": "painting"}, "decoder's configuration cannot be read .*'painting'.*train anew"),
        ({**saved["model"], "depth": 3}, "decoder's configuration cannot be read .*'depth'.*train anew"),
    ):
        save_model(output, "decoder", load_model_state(world.decoder, "decoder"), {**saved, "model": model})
        with pytest.raises(ArtifactError, match=fault):
            load_decoder(output)
