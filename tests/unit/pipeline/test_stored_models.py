"""What a run needs of models from outside is in its store, and is found there by what it holds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.plan import Plan, PlannedStage
from pipeline.store import Completion, Store
from pipeline.stored_models import find_stored_models, with_stored_models
from stages.contract.errors import ArtifactError
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.config import ClipConfig, FolderClip, StoredClip, StoredT5, TextStatesConfig
from stages.generate.config import GenerateConfig
from stages.generate.worker import load_system
from stages.inference.loading import TrainedModels, load_text_to_image
from stages.inference.sampling import SamplingSettings
from stages.storage.artifact import Artifact, Output
from tests.factories import save_tiny_clip, save_tiny_decoder, save_tiny_prior, save_tiny_t5

SETTINGS = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=1))
PROMPTS, SEEDS = ["a red star", "green"], [3, 4]


class World:
    """An experiment whose CLIP and T5 were in folders, and what it trained."""

    def __init__(self, folder: Path) -> None:
        self.clip, self.t5 = save_tiny_clip(folder / "job" / "clip"), save_tiny_t5(folder / "job" / "t5")
        (self.t5 / "pytorch_model.bin").write_bytes(b"never loaded")
        clip = {"models": [{"kind": "folder", "path": self.clip}]}
        states = {"t5": {"path": self.t5, "max_length": 6}, "clip": True}
        self.generate = GenerateConfig.model_validate({"clip": clip, "prompts": {"kind": "list", "texts": PROMPTS}})
        self.identity = self.generate.identity()
        embed = EmbedClipConfig.model_validate({"clip": clip, "text_states": states})
        self.store = Store(str(folder / "store"))
        self.plan = with_stored_models(Plan("x", {s.stage: planned(s) for s in (embed, self.generate)}), self.store)

    def train(self) -> dict[str, Artifact]:
        """Save a prior and a decoder as the stages would: with the identities of the stored models."""
        section = self.plan.stages["embed_clip"].config
        assert isinstance(section, EmbedClipConfig)
        prior = save_tiny_prior(
            Path(self.store.output("train_prior", "f0").uri), self.clip, text_states=section.text_states
        )
        decoder = save_tiny_decoder(Path(self.store.output("train_decoder", "f0").uri), self.clip)
        assert Path(prior.uri).is_dir()
        assert Path(decoder.uri).is_dir()
        return {name: self.store.artifact(name, "f0") for name in ("train_prior", "train_decoder")}


def planned(config: EmbedClipConfig | GenerateConfig) -> PlannedStage:
    return PlannedStage(config.stage, "f0", Completion(complete=False), config.inputs, config.identity(), config)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_sections_read_their_models_from_the_store_and_are_the_same_otherwise(world: World) -> None:
    embed, generate = (world.plan.stages[name].config for name in ("embed_clip", "generate"))
    assert isinstance(embed, EmbedClipConfig)
    assert isinstance(generate, GenerateConfig)
    assert isinstance(embed.text_states, TextStatesConfig)
    (stored,), t5 = generate.clip.models, embed.text_states.t5
    assert isinstance(stored, StoredClip)
    assert isinstance(t5, StoredT5)
    assert (stored.reference, t5.reference, t5.max_length) == ("clip", "t5", 6)
    assert generate.identity()["prompts"] == world.identity["prompts"]
    assert sorted(path.name for path in (Path(world.store.uri) / "models" / t5.digest / "files").iterdir()) == sorted(
        path.name for path in world.t5.iterdir() if path.suffix != ".bin"
    )


def test_a_model_is_loaded_after_its_folders_are_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    inputs = world.train()
    prior, decoder = inputs.values()
    assert str(world.t5) not in Path(inputs["train_prior"].path("prior/config.json")).read_text()
    before = load_text_to_image(TrainedModels(world.generate.clip, prior, decoder), SETTINGS).generate(PROMPTS, SEEDS)
    shutil.rmtree(tmp_path / "job")
    section = find_stored_models(world.generate, world.identity, world.store)
    assert isinstance(section, GenerateConfig)
    system = load_system(section, inputs, device="cpu").with_settings(SETTINGS.flat())
    assert np.array_equal(system.generate(PROMPTS, SEEDS), before)
    gone = section.model_copy(update={"t5": T5_ELSEWHERE})
    assert torch.equal(load_system(gone, inputs, device="cpu").encode(PROMPTS), system.encode(PROMPTS))
    shutil.rmtree(tmp_path / "store" / "models")
    assert find_stored_models(world.generate, world.identity, world.store) == world.generate
    with pytest.raises(ArtifactError, match=r"T5 t5 \(.{8}, width 12\) of the prior .* is not found .*generate\.t5"):
        load_text_to_image(TrainedModels(clip_in(tmp_path / "job" / "clip"), prior, decoder), SETTINGS)


def clip_in(folder: Path) -> ClipConfig:
    return ClipConfig(models=(FolderClip(kind="folder", path=save_tiny_clip(folder)),))


T5_ELSEWHERE = StoredT5(path=Path("/nowhere/t5"), store="/nowhere", digest="0" * 64, label="t5")


@pytest.mark.parametrize("digest", ["../../..", "", "x" * 64])
def test_a_recorded_digest_is_no_path(world: World, tmp_path: Path, digest: str) -> None:
    prior = save_tiny_prior(tmp_path / "artifacts" / "train_prior" / "f0", world.clip, text_states=None)
    output = Output(prior.uri, "train_prior", "f0")
    recorded = {
        "reference": "t5",
        "digest": "0",
        "width": 2,
        "max_length": 3,
        "source": {"label": "t5", "digest": digest},
    }
    config = output.read_json("prior/config.json")
    output.write_json("prior/config.json", config | {"text_encoders": {"t5": recorded}})
    with pytest.raises(ArtifactError, match=r"is not found .*digest"):
        load_text_to_image(
            TrainedModels(world.generate.clip, output, save_tiny_decoder(tmp_path / "d", world.clip)), SETTINGS
        )
