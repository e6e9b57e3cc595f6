"""A decoder begins with a U-Net in diffusers' own format: a pipeline's folder, or that of the network alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from stages.contract.errors import InputFault
from stages.storage.artifact import Artifact
from stages.train_decoder.check import check
from tests.tiny_stable_diffusion import save_tiny_stable_diffusion
from tests.unit.stages.train_decoder.test_text_tuning import KINDS, config, inputs_of, task_of

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "latent": ("latent", {}),
    "stable": ("stable", {}),
    "stable with low-rank additions": ("stable", {"tuning": {"kind": "lora", "rank": 2}}),
}


@pytest.fixture(scope="module", autouse=True)
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> None:
    KINDS["stable"]["path"] = str(save_tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "checkpoint"))


def save_unet(kind: str, inputs: dict[str, Artifact], folder: Path) -> dict[str, torch.Tensor]:
    """Save a U-Net of other weights as diffusers does, and return these."""
    if kind == "stable":
        save_tiny_stable_diffusion(folder, seed=5)
        return UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True).state_dict()
    task = task_of(config(kind), inputs)
    torch.manual_seed(5)
    unet = task.decoder_of(task.build_model()).denoiser.network.unet
    for weights in unet.parameters():
        torch.nn.init.normal_(weights)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    found: dict[str, torch.Tensor] = unet.state_dict()
    return found


def state_of(settings: Any, inputs: dict[str, Artifact]) -> dict[str, torch.Tensor]:
    """Return the weights that a training begins with."""
    task = task_of(settings, inputs)
    torch.manual_seed(0)  # as the loop does
    found: dict[str, torch.Tensor] = task.decoder_of(task.build_model()).state_dict()
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_decoder_begins_with_a_network_of_diffusers(tmp_path: Path, case: str) -> None:
    kind, changes = CASES[case]
    inputs = inputs_of(kind, tmp_path / "inputs")
    wanted = save_unet(kind, inputs, tmp_path / "pipeline")
    before = state_of(config(kind, **changes), inputs)
    for folder in ("pipeline", "pipeline/unet"):
        settings = config(kind, init_from=str(tmp_path / folder), **changes)
        check(settings)
        state = state_of(settings, inputs)
        begun = {
            name.rpartition("unet.")[2].replace("base_model.model.", "").replace("base_layer.", ""): (name, tensor)
            for name, tensor in state.items()
            if "unet." in name and "lora_" not in name
        }
        assert begun.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, (_, tensor) in begun.items())
        names = {name for name, _ in begun.values()}
        assert all(torch.equal(state[name], before[name]) for name in state.keys() - names if "lora_" not in name)


def test_a_network_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    inputs = inputs_of("latent", tmp_path / "inputs")
    save_tiny_stable_diffusion(tmp_path / "pipeline")
    with pytest.raises(InputFault, match=r"train_decoder\.init_from: .* there, and here "):
        task_of(config("latent", init_from=str(tmp_path / "pipeline" / "unet")), inputs).build_model()
    with pytest.raises(InputFault, match=r"train_decoder\.init_from: "):
        task_of(config("latent", init_from=str(tmp_path / "pipeline" / "vae")), inputs).build_model()
