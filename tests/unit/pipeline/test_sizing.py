"""What a plan says of sizes: the weights of the model that is really trained, and the memory of the ZeRO paper."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from pipeline.plan import make_plan
from pipeline.sizing.memory import bytes_per_gpu
from pipeline.sizing.modules import trained_module
from pipeline.sizing.sizes import sizes_document, sizes_table, stage_sizes
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.sizing import Unknown
from stages.contract.stage import StageSummary
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encode_latents.stage import run as encode
from stages.formats.model_folders import save_model
from stages.storage.artifact import COMPLETE, Artifact, Output
from stages.train_autoencoder.task import AutoencoderTask
from stages.train_decoder.stage import make_task
from stages.train_upsampler.config import TrainUpsamplerConfig
from stages.training.task import RankInfo
from stages.training.upsampling.task import UpsamplerTask
from tests.factories import save_tiny_language_model
from tests.tiny_stable_diffusion import save_tiny_stable_diffusion
from tests.unit.pipeline.test_report import _text
from tests.unit.stages.encoded import DIM, SIDE, context, make_embeddings, make_shards

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CPU = RankInfo(0, 1, torch.device("cpu"))
TRAINING = {"num_steps": 100, "batch_size": 8, "warmup_steps": 0}
FIRST = {"resolution": SIDE, "training": TRAINING, "network": {
    "unshuffle": 4, "channels": [16], "blocks_per_level": 1, "latent_channels": 3, "attention": False}}  # fmt: skip
SMALL = {"layout_channels": 4, "layout_hidden": 16, "num_tokens": 2}
DECODERS: dict[str, dict[str, Any]] = {
    "pixel_diffusion": {"network": {"unshuffle": 4, "channels": [32], "layout_resolution": 4}},
    "latent_diffusion": {
        "network": {"kind": "unet", "channels": [32]},
        "conditioning": {**SMALL, "layout_resolution": 4},
    },
    "vq_autoregressive": {"network": {"width": 32, "num_layers": 1, "num_heads": 2, **SMALL}},
    "stylegan2": {
        "generator": {"channels": [8, 8], "patch_size": 2, "style_dim": 8, "latent_dim": 4},
        "discriminator": {"channels": [8, 8], "patch_size": 2, "feature_dim": 8},
        "losses": {"clip_weight": 0.0},
    },
    "stable_diffusion": {"tuning": {"kind": "full"}},
    "stable_diffusion by lora": {"tuning": {"kind": "lora", "rank": 2}},
}  # fmt: skip


class World:
    """Shards, embeddings and latents of every kind, and an experiment that describes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkpoint = folder, save_tiny_stable_diffusion(folder / "sd")
        self.inputs: dict[str, Artifact] = {
            "download_shards": make_shards(folder / "s"), "embed_clip": make_embeddings(folder / "e"),
        }  # fmt: skip
        (folder / "clip").mkdir()
        (folder / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": DIM}}))

    def config(self, decoder: str) -> RunConfig:
        kind = decoder.partition(" ")[0]
        section = {"kind": kind, "resolution": SIDE, "training": TRAINING, **DECODERS[decoder]}
        first = {"kind": "vq" if kind == "vq_autoregressive" else "kl", **FIRST, "adversary": {"width": 8}}
        sections: dict[str, Any] = {
            "name": "sizes", "clip": {"models": [{"kind": "folder", "path": str(self.folder / "clip")}]},
            "download_shards": {"source": {"kind": "folder", "path": str(self.folder)}},
            "train_autoencoder": first, "encode_latents": {"kind": "autoencoder"}, "train_decoder": section,
        }  # fmt: skip
        if kind == "stable_diffusion":
            sections["train_decoder"] |= {"path": str(self.checkpoint)}
            sections["encode_latents"] = {"kind": kind, "path": str(self.checkpoint), "resolution": SIDE}
        if kind == "stylegan2":
            section["clip"] = sections["clip"]
        sections["embed_clip"] = {"clip": sections["clip"]}
        return RunConfig.model_validate(sections)

    def really_trained(self, decoder: str) -> nn.Module:
        """Return the model that the decoder's task makes from the data."""
        config = self.config(decoder)
        assert config.train_decoder is not None
        task = make_task(config.train_decoder, {**self.inputs, **self._latents(config)})
        task.setup(CPU)
        return task.build_model()

    def _latents(self, config: RunConfig) -> Mapping[str, Artifact]:
        if config.train_decoder is None or config.train_autoencoder is None:
            return {}
        spec = config.train_autoencoder.spec
        first = Output(str(self.folder / f"ae-{spec.kind}"), "train_autoencoder", "c")
        save_model(first, "autoencoder", spec.build(), {"kind": spec.kind, "model": spec.to_dict()})
        latents = Output(str(self.folder / f"l-{config.train_decoder.kind}"), "encode_latents", "d")
        section = config.encode_latents
        assert isinstance(section, EncodeByAutoencoder | EncodeByStableDiffusion)
        encode(section, {**self.inputs, "train_autoencoder": first}, latents, context())
        return {"train_autoencoder": first, "encode_latents": latents}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def counts(model: nn.Module) -> tuple[int, int]:
    weights = list(model.parameters())
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("decoder", DECODERS)
def test_weights_are_counted_as_the_trained_model_has_them(world: World, decoder: str) -> None:
    planned = trained_module("train_decoder", world.config(decoder))
    assert {weight.device.type for weight in planned.parameters()} == {"meta"}
    assert counts(planned) == counts(world.really_trained(decoder))
    assert counts(planned)[1] > 0


@pytest.mark.parametrize("kind", ["latent_diffusion", "vq_autoregressive"])
def test_an_autoencoder_counts_with_its_adversary(world: World, kind: str) -> None:
    config = world.config(kind)
    assert config.train_autoencoder is not None
    task = AutoencoderTask(config.train_autoencoder, world.inputs)
    task.setup(CPU)
    assert counts(trained_module("train_autoencoder", config)) == counts(task.build_model())


@pytest.mark.parametrize(
    ("name", "stage", "billions"),
    [
        ("pixel_cascade", "train_decoder", (3.0, 4.0)),  # DALL-E 2, appendix C: 3.5 B
        ("stable_diffusion", "train_decoder", (0.865, 0.875)),  # SD 2's U-Net: 865.9 M, and four tokens
        ("latent_diffusion", "train_decoder", (0.8, 1.5)),
        ("latent_diffusion", "train_autoencoder", (0.08, 0.09)),  # SD's autoencoder: 83.7 M
        ("vq_autoregressive", "train_decoder", (11.0, 13.0)),  # DALL-E: 12 B
        ("stylegan2", "train_decoder", (0.04, 0.08)),
        ("stable_diffusion", "train_prior", (1.06, 1.15)),  # Shifted Diffusion: about 1.07 B and projections
    ],
)
def test_the_papers_sizes_are_resolved_without_memory_or_network(
    name: str, stage: str, billions: tuple[float, float]
) -> None:
    config = load_config(CONFIGS / "paper" / f"{name}.yaml")
    count = counts(trained_module(stage, config))[1] / 1e9
    assert billions[0] <= count <= billions[1]


def test_what_the_configuration_does_not_fix_is_reported(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "paper/stable_diffusion.yaml", ["train_decoder.name=someone/checkpoint"])
    with pytest.raises(Unknown, match="the shape of someone/checkpoint is not known here: give its folder"):
        trained_module("train_decoder", config)
    store = Store(str(tmp_path))
    sizes = {size.stage: size for size in stage_sizes(config, make_plan(config, store), store)}
    found = sizes["train_decoder"]
    assert (found.parameters, found.gigabytes_per_gpu, found.images, found.epochs) == (None, {}, None, None)
    assert [reason.partition(":")[0] for reason in found.why] == ["parameters", "epochs"]
    assert found.why[0] in _text(sizes_table(list(sizes.values()))).replace("\n", " ")


def test_memory_is_that_of_the_paper_in_single_precision() -> None:
    """Figure 1 of the paper, with 4 bytes for weights and gradients, 8 for moments, and 4 for the average."""
    psi, gpus = 7_500_000_000, 64
    found = [bytes_per_gpu(psi, psi, zero_stage=stage, num_gpus=gpus) / psi for stage in range(4)]
    assert found == pytest.approx([20, 12 + 12 / 64, 8 + 16 / 64, 20 / 64])
    frozen = [bytes_per_gpu(psi, 0, zero_stage=stage, num_gpus=gpus) / psi for stage in range(4)]
    assert frozen == pytest.approx([8, 8, 8, 8 / 64])
    assert bytes_per_gpu(psi, psi, zero_stage=3, num_gpus=1) == bytes_per_gpu(psi, psi, zero_stage=0, num_gpus=1)


def test_epochs_follow_from_steps_and_images(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    config = load_config(CONFIGS / "quickstart.yaml", ["train_decoder.training.num_steps=1000"])
    (decoder,) = [s for s in stage_sizes(config, make_plan(config, store), store, 4) if s.stage == "train_decoder"]
    assert decoder.num_gpus == 4
    assert decoder.images == 3600 - 360
    assert decoder.epochs == pytest.approx(1000 * 32 / 3240)
    assert decoder.steps_per_epoch == pytest.approx(3240 / 32)

    plan = make_plan(config, store)
    made = store.output("download_shards", plan.stages["download_shards"].fingerprint)
    summary = StageSummary(3000, counts={"images": 3000})
    Manifest(stage=made.stage, fingerprint="f", code_version=1, config={}, inputs={}, summary=summary).write(made)
    made.write_bytes(COMPLETE, b"")
    sizes = {size.stage: size for size in stage_sizes(config, make_plan(config, store), store)}
    assert sizes["train_decoder"].images == 2700  # what was really downloaded
    assert sizes["train_prior"].epochs is None
    assert {size["stage"] for size in sizes_document(list(sizes.values()))} == {"train_prior", "train_decoder"}


@pytest.mark.parametrize(
    ("words", "images", "reason"),
    [
        (["download_shards.source.num_images=1", "split.validation=0.9"], 0, "epochs: none of 1 images is left"),
        (["train_decoder.network.channels=[10000000000]"], 3240, "parameters: torch makes no network of these sizes"),
        ([f"train_decoder.network.channels=[{2**63}]"], 3240, "parameters: torch makes no network of these sizes"),
    ],
    ids=["no image", "weights", "width"],
)
def test_a_size_that_is_no_number_is_left_out_with_its_reason(
    tmp_path: Path, words: list[str], images: int, reason: str
) -> None:
    store = Store(str(tmp_path))
    config = load_config(CONFIGS / "quickstart.yaml", words)
    sizes = stage_sizes(config, make_plan(config, store), store, 1)
    (decoder,) = [size for size in sizes if size.stage == "train_decoder"]
    assert decoder.images == images
    assert len(decoder.why) == 1
    assert decoder.why[0].startswith(reason)
    assert (decoder.parameters is None) == reason.startswith("parameters")
    assert (decoder.epochs is None) == reason.startswith("epochs")
    assert json.loads(json.dumps(sizes_document(sizes)))
    assert sizes_table(sizes)


def test_upsamplers_are_counted(world: World) -> None:
    section = TrainUpsamplerConfig.model_validate(
        {"from_resolution": 8, "resolution": SIDE, "training": TRAINING, "network": {"channels": [32], "unshuffle": 2}}
    )
    config = world.config("pixel_diffusion").model_copy(update={"train_upsampler": section})
    task = UpsamplerTask(section, world.inputs)
    task.setup(CPU)
    assert counts(trained_module("train_upsampler", config)) == counts(task.build_model())


def test_a_prior_counts_its_language_model_s_width_and_its_teacher(tmp_path: Path) -> None:
    folder = save_tiny_language_model(tmp_path / "lm", "gpt2")
    states = [
        f"embed_clip.text_states.language_model.path={folder}",
        "embed_clip.text_states.language_model.max_length=9",
    ]
    config = load_config(CONFIGS / "quickstart.yaml", states)
    weights = dict(trained_module("train_prior", config).named_parameters())
    assert weights["network.text_tokens.states.language_model.weight"].shape[1] == 12
    assert weights["network.text_tokens.state_positions.language_model"].shape[0] == 9
    distilled = load_config(CONFIGS / "quickstart.yaml", [*states, "train_prior.distillation={num_steps: 100}"])
    count = sum(weight.numel() for weight in weights.values())
    assert counts(trained_module("train_prior", distilled)) == (2 * count, count)


def test_widths_of_reused_models_are_those_of_the_other_experiment(tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text(f"""
extends: {CONFIGS / "quickstart.yaml"}
clip: {{models: [{{kind: trained}}]}}
train_clip: {{}}
fit_gaussians: {{num_gaussians: 5}}
train_prior: {{learnable: true}}
""")
    second = tmp_path / "second.yaml"
    second.write_text("""
extends: first.yaml
train_clip: null
fit_gaussians: null
embed_clip: null
reuse: {train_clip: {config: first.yaml}, fit_gaussians: {config: first.yaml}, embed_clip: {config: first.yaml}}
""")
    overrides = ["fit_gaussians.num_gaussians=9"]
    counts = [
        sum(one.numel() for one in trained_module("train_prior", load_config(path, words)).parameters())
        for path, words in [
            (first, []), (second, []),
            (first, overrides), (second, [f"reuse.fit_gaussians.overrides=[{overrides[0]}]"]),
        ]
    ]  # fmt: skip
    assert counts[0] == counts[1] != counts[2] == counts[3]
