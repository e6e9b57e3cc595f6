"""Fine-tuning of a tiny checkpoint in the real format: what goes in, what is trained, and that diffusers loads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.decoders.sampling import DecoderSampling
from models.decoders.stable_diffusion.model import StableDiffusionDecoder
from stages.contract.errors import InputFault
from stages.contract.events import Event
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, StageContext
from stages.encode_latents.config import EncodeByStableDiffusion
from stages.encode_latents.stage import run as encode_latents
from stages.formats.model_folders import CONFIG, WEIGHTS, files_of, load_model_state
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.check import check
from stages.train_decoder.stable_diffusion.config import StableDiffusionConfig
from stages.train_decoder.stage import run
from tests.painted_squares import DIM, make_inputs
from tests.tiny_stable_diffusion import generate_with_diffusers, save_tiny_stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TRAINING = {
    "num_steps": 20, "batch_size": 8, "learning_rate": 0.005, "warmup_steps": 1, "ema_decay": 0.5,
    "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "checkpoint")


@pytest.fixture(scope="module")
def inputs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    made = make_inputs(folder)
    return {**made, "encode_latents": encoded(made, checkpoint, folder / "latents")}


def encoded(inputs: dict[str, Artifact], checkpoint: Path, folder: Path) -> Artifact:
    output = Output(str(folder), "encode_latents", "l")
    settings = EncodeByStableDiffusion.model_validate(
        {"kind": "stable_diffusion", "path": str(checkpoint), "resolution": 16}
    )
    run_stage(encode_latents, settings, inputs=inputs, output=output, context=context([]))
    return output


def context(events: list[Event]) -> StageContext:
    return StageContext(events.append, map_in_process, launch_in_process, Allocation())


def config(checkpoint: Path, **changes: Any) -> StableDiffusionConfig:
    fields = {"kind": "stable_diffusion", "path": str(checkpoint), "resolution": 16, "training": TRAINING}
    return StableDiffusionConfig.model_validate(fields | {"samples": {"num_images": 2, "num_steps": 2}} | changes)


def train(settings: StableDiffusionConfig, inputs: dict[str, Artifact], folder: Path) -> tuple[Output, float]:
    """Train; return the output and the loss on held-out images, whose noise is always the same."""
    output = Output(str(folder), "train_decoder", "c")
    summary = run(settings, inputs, output, context([]))
    return output, summary.metrics["held_out_loss"]


def untrained_loss(checkpoint: Path, inputs: dict[str, Artifact], folder: Path) -> float:
    training = TRAINING | {"num_steps": 1, "warmup_steps": 0, "learning_rate": 1e-9}
    return train(config(checkpoint, training=training), inputs, folder / "untrained")[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    read: dict[str, torch.Tensor] = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    return read


def test_full_tuning_learns_and_diffusers_generates_the_same_images(
    checkpoint: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    output, loss = train(config(checkpoint), inputs, tmp_path)
    assert loss < untrained_loss(checkpoint, inputs, tmp_path)
    before, after = weights(checkpoint), weights(tmp_path / "decoder/pipeline")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == len(before)
    assert not list((tmp_path / "decoder").rglob("*.bin"))

    stored = load_file(tmp_path / "decoder/model.safetensors")
    assert {name.split(".")[1] for name in stored} == {"conditioner"}  # U-Net and autoencoder lie in the pipeline alone
    wanted = {CONFIG, WEIGHTS, "pipeline/unet/diffusion_pytorch_model.safetensors"}
    assert wanted < set(files_of(output, "decoder"))
    in_pipeline = (len(after), len(load_file(tmp_path / "decoder/pipeline/vae/diffusion_pytorch_model.safetensors")))
    assert len(load_model_state(output, "decoder")) == len(stored) + sum(in_pipeline)
    decoder, clips = load_decoder(output)
    assert isinstance(decoder, StableDiffusionDecoder)
    assert clips.digests == ["d"]
    embeddings = torch.rand(1, DIM)
    ours = decoder.sample(embeddings, [3], DecoderSampling(num_steps=3, guidance_scale=2.0))
    conditional, unconditional = decoder.prompt_embeddings(embeddings)
    assert conditional.shape == (1, 4, 32)
    theirs = generate_with_diffusers(tmp_path / "decoder/pipeline", conditional, unconditional, side=16, num_steps=3)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_low_rank_tuning_trains_the_additions_alone_and_saves_them_merged_and_apart(
    checkpoint: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    settings = config(checkpoint, tuning={"kind": "lora", "rank": 2, "alpha": 6})
    output, loss = train(settings, inputs, tmp_path)
    assert loss < untrained_loss(checkpoint, inputs, tmp_path)
    before, after = weights(checkpoint), weights(tmp_path / "decoder/pipeline")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.rsplit(".", 1)[0].endswith(("to_q", "to_k", "to_v", "to_out.0")) for name in changed)

    decoder, _ = load_decoder(output)
    conditional, unconditional = decoder.prompt_embeddings(torch.ones(1, DIM))
    merged = generate_with_diffusers(tmp_path / "decoder/pipeline", conditional, unconditional, side=16, num_steps=3)
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, use_safetensors=True)
    pipeline.load_lora_weights(tmp_path / "decoder/lora")
    pipeline.fuse_lora()
    fused = pipeline.unet.state_dict()
    name = next(name for name in changed if name.endswith("to_q.weight"))
    torch.testing.assert_close(fused[name.replace("to_q.", "to_q.base_layer.")], after[name], atol=1e-6, rtol=0)
    assert merged.isfinite().all()


def test_velocity_checkpoints_are_trained_on_the_velocity(tmp_path: Path) -> None:
    checkpoint = save_tiny_stable_diffusion(tmp_path / "v", prediction_type="v_prediction")
    made = make_inputs(tmp_path / "in")
    made["encode_latents"] = encoded(made, checkpoint, tmp_path / "latents")
    output, loss = train(config(checkpoint), made, tmp_path / "out")
    assert loss < untrained_loss(checkpoint, made, tmp_path)
    assert (
        json.loads((tmp_path / "out/decoder/config.json").read_text())["model"]["scheduler"]["prediction_type"]
        == "v_prediction"
    )
    decoder, _ = load_decoder(output)
    assert decoder.denoiser.process.spec.target == "velocity"


def test_latents_of_another_checkpoint_are_refused(
    checkpoint: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    other = save_tiny_stable_diffusion(tmp_path / "other", seed=7)
    with pytest.raises(InputFault, match=r"found latents by the autoencoder of .*: expected that of .*other"):
        train(config(other), inputs, tmp_path / "out")
    with pytest.raises(InputFault, match=r"found latents \[4, 4, 4\] .* expected \[4, 8, 8\]"):
        train(config(checkpoint, resolution=32), inputs, tmp_path / "out")


def test_a_folder_that_is_no_checkpoint_is_reported_before_anything_starts(checkpoint: Path, tmp_path: Path) -> None:
    check(config(checkpoint))
    with pytest.raises(InputFault, match=r"has no model_index\.json, no scheduler/.*, no unet/\*\.safetensors"):
        check(config(tmp_path))
    with pytest.raises(ValueError, match="found both path and name"):
        config(checkpoint, name="stabilityai/stable-diffusion-2-base")


def test_the_path_of_the_checkpoint_does_not_enter_the_identity(checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(checkpoint)
    assert config(checkpoint).identity() == config(moved).identity()
    other = save_tiny_stable_diffusion(tmp_path / "other", seed=7)
    assert config(checkpoint).identity() != config(other).identity()
