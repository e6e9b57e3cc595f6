"""Decoders that learn from encoded images: joined by key, resumed exactly, saved so that they need nothing else."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from models.decoders.sampling import DecoderSampling
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.encode_latents.config import EncodeLatentsConfig
from stages.encode_latents.stage import run as encode
from stages.formats.model_folders import save_model
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_decoder.first_stage import EncodedTask
from stages.train_decoder.latent_diffusion.task import LatentDiffusionTask
from stages.train_decoder.stage import make_task, run
from stages.train_decoder.vq_autoregressive.task import VQAutoregressiveTask
from stages.training import launch
from stages.training.task import Batch, BatchPart, RankInfo
from tests.specs import make_autoencoder_spec
from tests.unit.stages.encoded import DIM, SIDE, SIZES, color_of, context, files, make_embeddings, make_shards

CPU = RankInfo(0, 1, torch.device("cpu"))
SMALL = {"layout_channels": 4, "layout_hidden": 16, "num_tokens": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"kind": "latent_diffusion", "network": {"kind": "unet", "channels": [32]}},
    "dit": {"kind": "latent_diffusion", "network": {"kind": "dit", "num_layers": 1, "num_heads": 2, "head_dim": 16}},
    "mlp": {"kind": "latent_diffusion", "network": {"kind": "mlp", "width": 32, "num_layers": 1}},
    "codes": {"kind": "vq_autoregressive", "network": {"width": 32, "num_layers": 1, "num_heads": 2, **SMALL}},
}
NETWORKS["codes of both"] = {**NETWORKS["codes"], "condition": "both"}
NETWORKS["codes of texts"] = {**NETWORKS["codes"], "condition": "text"}
FIRST_STAGE = {"codes of both": "vq", "codes of texts": "vq", "unet": "kl", "dit": "kl", "mlp": "kl", "codes": "vq"}


def config(name: str, **changes: Any) -> Any:
    section: dict[str, Any] = {
        "resolution": SIDE,
        "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 2, "log_interval": 4,
                     "validation_interval": 6, "checkpoint_interval": 4, "ema_decay": 0.5},
        "samples": {"num_images": 3, "num_steps": 2},
        **NETWORKS[name],
    }  # fmt: skip
    if section["kind"] == "latent_diffusion":
        section["conditioning"] = {**SMALL, "token_dim": 16, "layout_resolution": 4}
    return TypeAdapter(TrainDecoderConfig).validate_python(section | changes)


def make_inputs(folder: Path, kind: str) -> dict[str, Artifact]:
    """Make shards and embeddings, and encode the images by an untrained autoencoder."""
    torch.manual_seed(0)
    shape = make_autoencoder_spec(
        kind, resolution=SIDE, unshuffle=4, channels=(16,), blocks_per_level=1, latent_channels=3,
        attention=False, num_codes=8,
    )  # fmt: skip
    first = Output(str(folder / "ae"), "train_autoencoder", "c")
    save_model(first, "autoencoder", shape.build(), {"kind": kind, "model": shape.to_dict()})
    inputs: dict[str, Artifact] = {"download_shards": make_shards(folder / "s"), "train_autoencoder": first}
    latents = Output(str(folder / "latents"), "encode_latents", "d")
    encode(TypeAdapter(EncodeLatentsConfig).validate_python({"kind": "autoencoder"}), inputs, latents, context())
    return inputs | {"encode_latents": latents, "embed_clip": make_embeddings(folder / "e")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Artifact]]:
    return {kind: make_inputs(tmp_path_factory.mktemp(kind), kind) for kind in ("kl", "vq")}


def train(inputs: dict[str, Artifact], folder: Path, settings: Any) -> tuple[Output, list[Event]]:
    events: list[Event] = []
    output = Output(str(folder), "train_decoder", "f")
    run(settings, {name: inputs[name] for name in settings.inputs}, output, context(events))
    return output, events


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_shows_and_saves_a_decoder_that_needs_nothing_else(
    tmp_path: Path, inputs: dict[str, dict[str, Artifact]], name: str
) -> None:
    output, events = train(inputs[FIRST_STAGE[name]], tmp_path, config(name))
    losses = [e.values["loss"] for e in events if isinstance(e, Metrics) and "loss" in e.values]
    assert losses[-1] < losses[0]
    images = [e for e in events if isinstance(e, LoggedImage)]
    assert [p.step for p in images] == [6, 12]
    assert Image.open(io.BytesIO(images[0].png)).size == (3 * SIDE, 2 * SIDE)  # reconstructions above generated ones

    decoder, clips = load_decoder(output)
    assert clips.digests == ["d"]
    sampling = DecoderSampling(num_steps=2)
    assert decoder.reads_text == (name in ("codes of both", "codes of texts"))
    generated = decoder.sample(torch.zeros(2, DIM), [1, 2], sampling)
    assert generated.shape == (2, 3, SIDE, SIDE)
    assert torch.equal(generated, decoder.sample(torch.ones(2, DIM), [1, 2], sampling)) == (name == "codes of texts")
    outputs = [decoder.sample(torch.zeros(2, DIM), [1, 2], sampling, y * torch.ones(2, DIM)) for y in (-3, 3)]
    assert torch.equal(*outputs) != decoder.reads_text


class Stops:
    """Breaks off before step 10, as a killed process would."""

    def prepare(self, part: BatchPart) -> Batch:
        if part.step == 10:
            raise ValueError("killed")
        return super().prepare(part)  # type: ignore[misc]


class StoppedDiffusion(Stops, LatentDiffusionTask):
    pass


class StoppedCodes(Stops, VQAutoregressiveTask):
    pass


@pytest.mark.parametrize("name", ["unet", "codes"])
def test_resumed_training_equals_undisturbed(tmp_path: Path, inputs: dict[str, dict[str, Artifact]], name: str) -> None:
    settings, given = config(name), inputs[FIRST_STAGE[name]]
    whole, _ = train(given, tmp_path / "whole", settings)
    cut = Output(str(tmp_path / "cut"), "train_decoder", "f")
    stopped = StoppedCodes if name == "codes" else StoppedDiffusion
    with pytest.raises(ValueError, match="killed"):
        launch.train(lambda: stopped(settings, given), settings.training, seed=0, output=cut, context=context())
    train(given, tmp_path / "cut", settings)
    assert files(cut, "decoder") == files(whole, "decoder")


def task_of(name: str, inputs: dict[str, Artifact], **changes: Any) -> EncodedTask:
    task = make_task(config(name, **changes), inputs)
    task.setup(CPU)
    assert isinstance(task, EncodedTask)
    return task


@pytest.mark.parametrize("name", ["unet", "codes"])
def test_embeddings_meet_the_latents_of_their_own_image(inputs: dict[str, dict[str, Artifact]], name: str) -> None:
    given = inputs[FIRST_STAGE[name]]
    batch = task_of(name, given).read(np.array([[2, 0], [0, 3]]))
    rows = [sum(SIZES) - 1, SIZES[0] - 1 - 3]  # the embeddings of a shard stand in reversed order
    kind = "codes" if name == "codes" else "latents"
    for index, row in enumerate(rows):
        np.testing.assert_allclose(batch["embeddings"][index, :3], np.array(color_of(row)) / 255, atol=1e-3)
        shard, index_in_shard = (2, row - 23) if row >= 23 else (0, row)
        stored = np.load(given["encode_latents"].local(f"{kind}/{kind}_{shard:05d}.npy"))
        np.testing.assert_array_equal(batch[kind][index], stored[index_in_shard])


def test_captions_that_may_be_used_are_reported_and_no_others(inputs: dict[str, dict[str, Artifact]]) -> None:
    indices = np.array([[0, row] for row in range(SIZES[0])])  # rows in reversed order, every other one captioned
    text = task_of("codes of both", inputs["vq"]).read(indices)["text"].numpy()
    rows = np.arange(SIZES[0])[::-1]
    assert (np.isnan(text).all(1) == (rows % 2 == 1)).all()
    np.testing.assert_allclose(text[1, :3], -np.array(color_of(SIZES[0] - 2)) / 255, atol=1e-3)
    few = task_of("codes of both", inputs["vq"], captions={"fraction": 0.3}).read(indices)["text"].numpy()
    assert 0 < (~np.isnan(few).any(1)).sum() < (~np.isnan(text).any(1)).sum()
    with pytest.raises(InputFault, match=r"train_decoder\.condition: no image has a caption that may be used"):
        task_of("codes of both", inputs["vq"], captions={"fraction": 0.0}).make_model()


def test_captions_count_only_where_they_are_read() -> None:
    few = {"captions": {"fraction": 0.3}}
    assert config("codes", **few).identity() == config("codes").identity()
    assert config("codes of both", **few).identity() != config("codes of both").identity()


def test_training_reads_no_image(tmp_path: Path) -> None:
    given = make_inputs(tmp_path, "kl")
    for path in (tmp_path / "s/shards").iterdir():
        path.unlink()
    output, _ = train(given, tmp_path / "out", config("unet"))
    assert output.exists("decoder/model.safetensors")


def test_what_does_not_fit_the_latents_is_reported(inputs: dict[str, dict[str, Artifact]]) -> None:
    with pytest.raises(InputFault, match=r"train_decoder\.resolution: found 32: expected the autoencoder's, 16"):
        task_of("unet", inputs["kl"], resolution=32)
    with pytest.raises(InputFault, match=r"found latents without codes: .*set train_autoencoder.kind to vq"):
        task_of("codes", inputs["kl"])
    with pytest.raises(InputFault, match=r"network: found .*the latents are \[3, 4, 4\]: change train_decoder.network"):
        task_of("unet", inputs["kl"], network={"kind": "unet", "channels": [32, 32, 32, 32]}).make_model()


def test_latents_of_another_kind_are_reported(tmp_path: Path) -> None:
    given = make_inputs(tmp_path, "kl")
    latents = Output(str(tmp_path / "latents"), "encode_latents", "d")
    latents.write_json("latents.json", latents.read_json("latents.json") | {"kind": "stable_diffusion"})
    with pytest.raises(
        InputFault, match=r"found latents .* of kind stable_diffusion: .*set encode_latents.kind to auto"
    ):
        task_of("unet", given)


def test_networks_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"LatentUNet\.channels: found \(20,\): expected multiples of 32"):
        config("unet", network={"kind": "unet", "channels": [20]})
    with pytest.raises(ValidationError, match=r"CodeNetwork\.width: found 30: expected a multiple of num_heads, 4"):
        config("codes", network={"width": 30, "num_heads": 4})
