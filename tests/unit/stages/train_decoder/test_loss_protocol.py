"""Held-out losses have one protocol where they are one quantity of the same images, and others where they are not."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from models.decoders.upsampler.spec import UpsamplerSpec
from stages.storage.artifact import Artifact
from stages.train_decoder.stage import make_task
from tests.painted_squares import make_inputs
from tests.unit.stages.train_decoder import test_encoded_stages as encoded
from tests.unit.stages.train_decoder.test_stage import config, train

SMALLER = {"unshuffle": 2, "channels": [32], "layout_channels": 4, "layout_resolution": 4}
QUIET = {"unshuffle": 4, "channels": [32], "layout_channels": 4, "layout_resolution": 4, "embedding_noise": 0.0}
STEPS = {"num_steps": 1, "batch_size": 8, "precision": "float32", "ema_decay": 0.5, "warmup_steps": 0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def usual(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return protocol(inputs, tmp_path_factory.mktemp("usual"))


def protocol(inputs: dict[str, Artifact], folder: Path, **changes: Any) -> Mapping[str, str]:
    summary, _ = train(inputs, folder, config(**({"training": STEPS} | changes)))
    found: Mapping[str, str] = summary.protocols[summary.measures["held_out_loss"].protocol]
    return found


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"process": {"target": "velocity"}}, {"process.target"}),
        ({"process": {"time_power": 2.0}}, {"process.time_power"}),
        ({"process": {"target": "noise", "path": "ddpm", "loss_weight": "uniform"}},
         {"process.path", "process.target", "process.time_power", "process.schedule", "process.loss_weight",
          "process.zero_terminal_snr"}),
        ({"resolution": 8, "network": SMALLER}, {"resolution"}),
        ({"network": QUIET}, {"network.embedding_noise"}),
    ],
    ids=["target", "time power", "path", "resolution", "noise"],
)  # fmt: skip
def test_other_losses_have_other_protocols(
    inputs: dict[str, Artifact], usual: Mapping[str, str], tmp_path: Path, changes: dict[str, Any], differing: set[str]
) -> None:
    found = protocol(inputs, tmp_path, **changes)
    names = {name for name in {*usual, *found} if usual.get(name) != found.get(name)}
    assert names == {f"loss.{name}" for name in differing}


def test_what_changes_no_loss_changes_no_protocol(
    inputs: dict[str, Artifact], usual: Mapping[str, str], tmp_path: Path
) -> None:
    same = {"process": {"schedule": "linear", "time_power": 0.0}, "samples": {"num_images": 2, "num_steps": 3}}
    network = {"unshuffle": 2, "channels": [32], "layout_channels": 4, "layout_resolution": 4}
    assert protocol(inputs, tmp_path, **same, network=network) == usual


def test_fewer_held_out_images_are_others(
    inputs: dict[str, Artifact], usual: Mapping[str, str], tmp_path: Path
) -> None:
    half = {"split": {"validation": 0.4}}
    found = [protocol(inputs, tmp_path / str(n), held_out_images=n, **half) for n in (2, 3)]
    assert found[0]["validated"] != found[1]["validated"]


def test_latents_of_another_first_stage_are_others(tmp_path: Path) -> None:
    found = []
    for kind, name in (("kl", "mlp"), ("vq", "mlp")):
        inputs = encoded.make_inputs(tmp_path / kind, kind)
        task = make_task(encoded.config(name), inputs)
        task.setup(encoded.CPU)
        found.append(task.loss_settings())
    digests = [one["first_stage"] for one in found]
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests)
    assert digests[0] != digests[1]


def test_the_loss_of_an_enlargement_names_its_factor_and_noise() -> None:
    network = {"max_noise": 0.25}
    spec = TypeAdapter(UpsamplerSpec).validate_python(
        {"embed_dim": 4, "from_resolution": 16, "resolution": 64, "network": network}
    )
    found = spec.of_loss()
    assert (found["from_resolution"], found["resolution"], found["network"]["max_noise"]) == (16, 64, 0.25)
