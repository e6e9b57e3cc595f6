"""The benchmark of a GPU, on the CPU: that it runs, needs nothing but torch's own, and fails where a check does."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu.measure import operations

ROOT = Path(__file__).resolve().parents[2]
KEPT_OUT = ("ray", "deepspeed", "mlflow", "pydantic", "open_clip", "stages", "pipeline", "cluster")
CODE = """
import sys
from benchmarks.gpu.__main__ import main
try:
    main()
finally:
    print("loaded:", sorted({name.partition(".")[0] for name in sys.modules}))
"""


def measure(tmp_path: Path, *words: str) -> tuple[int, str, dict[str, list[dict[str, object]]]]:
    command = [sys.executable, "-c", CODE, "--device", "cpu", "--quick", "--json", str(tmp_path / "found.json"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    return done.returncode, done.stdout, json.loads((tmp_path / "found.json").read_text())


def test_every_prior_is_trained_sampled_and_compared(tmp_path: Path) -> None:
    code, printed, found = measure(tmp_path, "--only", "prior", "--no-compile")
    assert code == 0, printed
    kinds = {"shifted", "gaussian", "flow", "projection", "autoregressive"}
    assert {row["case"] for row in found["rows"]} == {f"prior {kind}" for kind in kinds}
    assert {check["name"] for check in found["checks"]} >= {"device and CPU: loss, float32"}
    loaded = printed.rpartition("loaded: ")[2]
    assert [name for name in KEPT_OUT if f"'{name}'" in loaded] == []


def test_a_decoder_whose_loss_asks_for_a_gradient_is_measured(tmp_path: Path) -> None:
    code, printed, found = measure(tmp_path, "--only", "stylegan2", "--no-compile")
    assert code == 0, printed
    assert [row["work"] for row in found["rows"]] == ["train", "sample, 1"]


def test_operations_are_those_of_the_formula() -> None:
    layer, convolution = nn.Linear(16, 32, bias=False), nn.Conv2d(3, 8, 3, padding=1, bias=False)
    rows, image = torch.randn(5, 16), torch.randn(2, 3, 6, 6)
    assert operations(lambda: layer(rows)) == 2 * 5 * 16 * 32
    assert operations(lambda: layer(rows).sum().backward()) == 2 * (2 * 5 * 16 * 32)  # and the weights' gradient
    assert operations(lambda: convolution(image)) == 2 * (2 * 8 * 6 * 6) * (3 * 3 * 3)
