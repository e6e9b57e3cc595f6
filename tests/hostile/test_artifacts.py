"""Damaged or made-up files of artifacts: each is refused in one printable sentence, before memory is taken."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from stages.contract.errors import ArtifactError, StageError
from stages.formats.gaussians import gaussians_shape, read_gaussians
from stages.formats.generated_images import read_rows
from stages.inference.loading import load_prior
from stages.storage.artifact import Artifact
from tests.factories import save_tiny_prior

ROWS = np.ones((3, 4), np.float32)
CLIP = Path(__file__).resolve().parents[2] / "configs" / "assets" / "tiny_clip"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8 + b"{}",
        save({"means": ROWS, "stds": ROWS}),
        save({"means": ROWS, "stds": ROWS, "counts": ROWS}),
        save({"means": ROWS, "stds": ROWS[:2], "counts": np.ones(3)}),
        save({"means": ROWS, "stds": ROWS, "counts": np.ones(3), "\x1b[2J": ROWS}),
    ],
    ids=["empty", "header", "no counts", "shape", "fewer", "further"],
)
def test_gaussians_that_do_not_fit_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gaussians.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"gaussians\.safetensors cannot be read") as caught:
        read_gaussians(Artifact(str(tmp_path), "fit_gaussians", "f"))
    assert str(caught.value).isprintable()


def test_the_shape_of_damaged_gaussians_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gaussians.safetensors").write_bytes(save({"other": ROWS}))
    with pytest.raises(ArtifactError, match=r"gaussians\.safetensors cannot be read"):
        gaussians_shape(Artifact(str(tmp_path), "fit_gaussians", "f"))


@pytest.mark.parametrize(
    "change",
    [{"file": "../../secret.png"}, {"set": "../..", "file": "images/../../00000.png"}, {"index": "\x1b"}, {"more": 1}],
    ids=repr,
)
def test_rows_that_name_files_elsewhere_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"set": "prior", "index": 0, "file": "images/prior/00000.png", "prompt": "a", "seed": 1, "settings": {}}
    row |= {"scene": None, **change}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ArtifactError, match="a row cannot be read") as caught:
        read_rows(Artifact(str(tmp_path), "generate", "f"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed_dim": 10**12}, "embed_dim is 1000000000000"),
        ({"network": {"num_layers": 10**6}}, "num_layers is 1000000"),
        ({"network": {"width": 4096}}, "weights do not fit"),
        ({"network": {"\x1b[2J": 1}}, "configuration cannot be read"),
        ({"kind": ["a"]}, "configuration cannot be read"),
    ],
    ids=repr,
)
def test_a_model_larger_than_its_weights_is_not_built(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    save_tiny_prior(tmp_path, CLIP)
    file = tmp_path / "prior" / "config.json"
    config = json.loads(file.read_text())
    network = {**config["model"]["network"], **change.pop("network", {})}
    config["model"] |= {"network": network, **change}
    file.write_text(json.dumps(config))
    begun = time.process_time()
    with pytest.raises(StageError, match=words) as caught:
        load_prior(Artifact(str(tmp_path), "train_prior", "f"))
    assert time.process_time() - begun < 10
    assert str(caught.value).isprintable()
