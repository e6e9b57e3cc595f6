"""A small sweep of the smoke experiment, as a file."""

from pathlib import Path
from typing import Any

import yaml

BASE = Path(__file__).resolve().parents[4] / "configs" / "smoke.yaml"
TREE: dict[str, Any] = {
    "base": str(BASE),
    "groups": {
        "shifted": {"grid": {"fit_gaussians.num_gaussians": [1, 2], "train_prior.kappa": [1.0, 5.0]}},
        "baseline": {"set": {"train_prior": {"kind": "gaussian", "training": {"num_steps": 3, "batch_size": 4}}}},
    },
    "repeat": {"keys": ["train_prior.seed"], "values": [0, 1]},
    "table": {"cosine": "train_prior/cosine_true"},
    "plots": {"steps": {"figure": "train_prior/cosine_true/steps_*"}},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False))
    return path
