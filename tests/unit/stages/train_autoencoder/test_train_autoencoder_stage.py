"""The autoencoder's stage on painted squares: it learns, shows, saves, and goes on after a kill as if undisturbed."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

from stages.contract.errors import FailureCause, InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.formats.checkpoints import checkpoint_steps, read_checkpoint
from stages.formats.tensor_files import read_tensors
from stages.inference.autoencoder import load_autoencoder
from stages.storage.artifact import Artifact, Output
from stages.train_autoencoder.check import check
from stages.train_autoencoder.config import TrainAutoencoderConfig
from stages.train_autoencoder.stage import run
from stages.train_autoencoder.task import AutoencoderTask
from stages.training import launch
from stages.training.task import Batch, BatchPart, RankInfo
from tests.unit.stages.encoded import SIDE, color_of, context, files, make_shards

KINDS = {
    "kl": {"kind": "kl", "adversary": {"width": 8, "num_layers": 2, "start_step": 4}},
    "vq": {"kind": "vq", "codebook": {"num_codes": 8, "code_decay": 0.8}},
}


def config(kind: str, **changes: Any) -> Any:
    section = {
        "resolution": SIDE,
        "network": {"unshuffle": 4, "channels": [16], "blocks_per_level": 1, "latent_channels": 3, "attention": False},
        "training": {"num_steps": 12, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 2, "log_interval": 4,
                     "validation_interval": 6, "checkpoint_interval": 4, "ema_decay": 0.5},
        "grid_images": 3,
        **KINDS[kind],
    }  # fmt: skip
    return TypeAdapter(TrainAutoencoderConfig).validate_python(section | changes)


def train(shards: Artifact, folder: Path, settings: Any) -> tuple[Output, Any, list[Event]]:
    events: list[Event] = []
    output = Output(str(folder), "train_autoencoder", "c")
    return output, run(settings, {"download_shards": shards}, output, context(events)), events


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_stage_learns_shows_and_saves(tmp_path: Path, kind: str) -> None:
    output, summary, events = train(make_shards(tmp_path / "s"), tmp_path / "out", config(kind))
    errors = [e.values["absolute_error"] for e in events if isinstance(e, Metrics) and "absolute_error" in e.values]
    assert errors[-1] < errors[0] * 0.9
    assert summary.items == 96
    assert summary.metrics["held_out_psnr"] > 5
    assert ("held_out_codes_used" in summary.metrics) == (kind == "vq")
    assert ("held_out_discriminator" in summary.metrics) == (kind == "kl")
    images = [e for e in events if isinstance(e, LoggedImage)]
    assert [p.step for p in images] == [6, 12]
    assert Image.open(io.BytesIO(images[0].png)).size == (3 * SIDE, 2 * SIDE)

    model = load_autoencoder(output)
    assert not any(name.startswith("discriminator") for name in model.state_dict())
    assert model.decode(model.encode(torch.zeros(1, 3, SIDE, SIDE))).shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_levels_computed_again_in_the_backward_pass_give_the_same_bits(tmp_path: Path, kind: str) -> None:
    shards, training = make_shards(tmp_path / "s"), {"num_steps": 3, "batch_size": 8, "warmup_steps": 1}
    outputs = [
        train(shards, tmp_path / str(again), config(kind, training=training, gradient_checkpointing=again))[0]
        for again in (False, True)
    ]
    assert files(outputs[0], "autoencoder") == files(outputs[1], "autoencoder")


class Stopped(AutoencoderTask):
    """Breaks off before step 10, as a killed process would."""

    def prepare(self, part: BatchPart) -> Batch:
        if part.step == 10:
            raise ValueError("killed")
        return super().prepare(part)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_resumed_training_equals_undisturbed(tmp_path: Path, kind: str) -> None:
    shards, settings = make_shards(tmp_path / "s"), config(kind)
    whole, _, _ = train(shards, tmp_path / "whole", settings)
    cut = Output(str(tmp_path / "cut"), "train_autoencoder", "c")
    with pytest.raises(ValueError, match="killed"):
        launch.train(
            lambda: Stopped(settings, {"download_shards": shards}),
            settings.training,
            seed=0,
            output=cut,
            context=context(),
        )
    assert checkpoint_steps(cut)[-1] == 8
    train(shards, tmp_path / "cut", settings)
    assert files(cut, "autoencoder") == files(whole, "autoencoder")


def test_images_that_cannot_be_decoded_are_left_out_and_counted_also_over_a_restart(tmp_path: Path) -> None:
    shards, settings = make_shards(tmp_path / "s", corrupt=(1, 15, 16, 30)), config("kl", held_out_images=3)
    whole, summary, _ = train(shards, tmp_path / "whole", settings)  # 96 samples of an epoch of 31
    assert summary.counts == {"failed_corrupt_image": 4}  # the held-out one of row 1 as well
    cut = Output(str(tmp_path / "cut"), "train_autoencoder", "c")
    stopped = Stopped(settings, {"download_shards": shards})
    with pytest.raises(ValueError, match="killed"):
        launch.train(lambda: stopped, settings.training, seed=0, output=cut, context=context())
    keys = ("00000/00001", "00001/00015", "00001/00016", "00002/00030")
    assert read_checkpoint(cut, 8).left_out == dict.fromkeys(keys, FailureCause.CORRUPT_IMAGE)
    _, again, _ = train(shards, tmp_path / "cut", settings)
    assert again.counts == summary.counts
    assert files(cut, "autoencoder") == files(whole, "autoencoder")


def test_the_adversary_waits_for_steps_and_not_for_samples(tmp_path: Path) -> None:
    task = AutoencoderTask(config("kl"), {"download_shards": make_shards(tmp_path)})
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    batch, other = (task.prepare(BatchPart(3, 0, 4, 4, skipped=skipped)) for skipped in (2, 0))  # of a roll back
    assert batch["step"].tolist() == other["step"].tolist() == [3] * 4
    assert not torch.equal(batch["images"], other["images"])


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_validations_of_the_same_weights_find_the_same_at_any_step(tmp_path: Path, kind: str) -> None:
    """Of the same noise, so that the best of several validations is that of the best weights."""
    task = AutoencoderTask(config(kind), {"download_shards": make_shards(tmp_path)})
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    torch.manual_seed(0)
    model, found = task.build_model().eval(), {}
    for step in (3, 6, 12):
        with torch.no_grad():
            metrics = task.validate(model, step)[0]
        assert isinstance(metrics, Metrics)
        found[step] = metrics.values
    assert found[12] == found[6]
    has_adversary = kind == "kl"  # of which the loss takes no part before step 4
    assert (found[3]["held_out_loss"] != found[6]["held_out_loss"]) == has_adversary
    assert found[3]["held_out_square_error"] == found[6]["held_out_square_error"]


def test_the_slot_of_an_image_that_cannot_be_decoded_is_filled_by_the_next_in_the_order(tmp_path: Path) -> None:
    batches = []
    for corrupt in ((), (15, 16)):
        task = AutoencoderTask(config("kl"), {"download_shards": make_shards(tmp_path / str(corrupt), corrupt=corrupt)})
        task.setup(RankInfo(0, 1, torch.device("cpu")))
        batches.append([tuple(image[0, 0].tolist()) for image in task.prepare(BatchPart(0, 0, 31, 31))["images"]])
    whole, refilled = batches
    unreadable = {color_of(row) for row in (15, 16)}
    assert not unreadable & set(refilled)
    for number, color in enumerate(whole[:-2]):
        readable = [later for later in whole[number:] if later not in unreadable]
        assert refilled[number] == (readable[0] if color in unreadable else color)


def test_nothing_but_images_that_cannot_be_decoded_is_an_error(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s", corrupt=tuple(range(34)))
    with pytest.raises(InputFault, match="train_autoencoder: found no training image that can be decoded"):
        train(shards, tmp_path / "out", config("kl"))


def test_small_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"train_autoencoder\.resolution: found 32, but the images .* have 16 pixels"):
        train(make_shards(tmp_path / "s"), tmp_path / "out", config("kl", resolution=32))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_perceptual_network_is_read_from_its_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    state = {f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}
    path = tmp_path / f"vgg16{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    settings = config("kl", perceptual={"kind": "vgg", "path": str(path)}, adversary=None)
    check(settings)
    task = AutoencoderTask(settings, {"download_shards": make_shards(tmp_path / "s")})
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    model = task.build_model()
    terms = model(task.prepare(BatchPart(0, 0, 2, 2)))
    terms["loss"].mean().backward()
    assert terms["perceptual"].min() > 0
    assert all(weight.grad is not None for weight in model.autoencoder.parameters())


def test_another_file_is_no_perceptual_network(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    task = AutoencoderTask(
        config("kl", perceptual={"kind": "vgg", "path": str(path)}), {"download_shards": make_shards(tmp_path / "s")}
    )
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    with pytest.raises(InputFault, match=r"perceptual\.path: .*weights\.pth cannot be used \(found no features"):
        task.build_model()
    with pytest.raises(InputFault, match=r"there is no file .*nowhere"):
        check(config("kl", perceptual={"kind": "vgg", "path": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize(("name", "content"), [("w.safetensors", b"x"), ("w.pth", b"x"), ("code.pth", None)])
def test_only_tensors_are_read(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    path.write_bytes(content) if content is not None else torch.save({"a": print}, path)
    with pytest.raises(ValueError, match=r"not a safetensors file|more than named tensors, which could run code"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("vq", {"training": {"gradient_accumulation": 2}}, "gradient_accumulation is 2 with kind vq"),
        ("kl", {"training": {"zero_stage": 3}}, "zero_stage is 3 with an adversary"),
        ("kl", {"resolution": 18}, r"resolution: found 18: expected a multiple of 4"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(kind, **changes)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_training_begins_as_another_autoencoder(tmp_path: Path, kind: str) -> None:
    shards = make_shards(tmp_path / "s")
    first, _, _ = train(shards, tmp_path / "first", config(kind))
    settings = config(kind, init_from=first.path("autoencoder"))
    check(settings)
    assert_begins_as(settings, shards, load_autoencoder(first).state_dict())
    other = config(kind, init_from=first.uri, network=settings.network.__dict__ | {"channels": [32]})
    with pytest.raises(InputFault, match=r"train_autoencoder\.init_from: .* is \[.*\] there, and here it is \["):
        task_of(other, shards).build_model()


def test_a_training_begins_as_an_autoencoder_of_diffusers(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "s")
    first, _, _ = train(shards, tmp_path / "first", config("kl"))
    network = load_autoencoder(first).network
    network.save_pretrained(tmp_path / "pipeline" / "vae", safe_serialization=True)
    for folder in ("pipeline", "pipeline/vae"):
        settings = config("kl", init_from=str(tmp_path / folder))
        check(settings)
        assert_begins_as(settings, shards, {f"network.{name}": t for name, t in network.state_dict().items()})
    (tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(InputFault, match=r"init_from: .*: its weights cannot be read \(.*whole safetensors"):
        task_of(settings, shards).build_model()


def task_of(settings: Any, shards: Artifact) -> AutoencoderTask:
    task = AutoencoderTask(settings, {"download_shards": shards})
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    return task


def assert_begins_as(settings: Any, shards: Artifact, expected: dict[str, torch.Tensor]) -> None:
    own: Any = task_of(settings, shards).build_model()
    found = own.autoencoder.state_dict()
    assert expected
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
