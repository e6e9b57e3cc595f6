"""The training runs whose losses are held by a golden file; run this file to write it anew.

python -m tests.numerics.golden_losses
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.gaussians.bank import GaussianBank
from models.priors.diffusion.model import DiffusionPrior
from models.priors.registry import SPECS
from models.priors.spec import TransformerSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs

GOLDEN = Path(__file__).parent / "golden" / "prior_losses.json"
DIM, STEPS, BATCH = 8, 20, 64
NETWORK = TransformerSpec(width=16, num_layers=2, num_heads=2)
RUNS: dict[str, dict[str, Any]] = {
    "shifted": {"kind": "shifted"},
    "gaussian": {"kind": "gaussian"},
    "learnable": {"kind": "shifted", "learnable": True, "selection": "samples"},
    "noise": {"kind": "shifted", "target": "noise", "loss_weight": "min_snr"},
    "velocity": {"kind": "shifted", "target": "velocity", "loss_weight": "uniform"},
}


def make_bank(kind: str) -> GaussianBank:
    if kind == "gaussian":
        return GaussianBank.standard(DIM)
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(4, DIM, generator=generator)
    return GaussianBank(means, torch.rand(4, DIM, generator=generator) + 0.2, kappa=5.0)


def make_prior(network: TransformerSpec = NETWORK, *, trained: bool = False, **changes: Any) -> DiffusionPrior:
    bank = make_bank(changes.setdefault("kind", "shifted"))
    torch.manual_seed(0)
    kind: Any = SPECS[changes.pop("kind")]
    spec = kind(embed_dim=DIM, num_gaussians=bank.num_gaussians, network=network, **changes)
    prior = DiffusionPrior(spec, bank)
    prior.measure(*make_pairs())
    if trained:  # the answer starts at zero, which would hide every difference
        torch.nn.init.normal_(prior.network.answer.weight, std=0.3)
    return prior.eval()


def make_pairs(count: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(count, DIM, generator=generator) * 3 + 1
    return image, image.roll(1, 1) + 0.1 * torch.randn(count, DIM, generator=generator)


def make_batch(prior: DiffusionPrior, step: int = 0, text_dropout: float = 0.1) -> dict[str, Tensor]:
    image, text = make_pairs()
    random_inputs = training_random_inputs(
        prior.spec, range(step * BATCH, (step + 1) * BATCH), text_dropout=text_dropout
    )
    return training_batch(image, TextFeatures(text), random_inputs)


def losses_of(prior: DiffusionPrior) -> list[float]:
    """Train for 20 steps on one thread, on which sums always have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3, weight_decay=0.06)
    losses = []
    for step in range(STEPS):
        loss = prior(make_batch(prior, step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.set_num_threads(threads)
    return losses


def machine() -> str:
    """Return what decides how the CPU rounds: torch, its instruction set, and the processor that its kernels choose."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "CPU part"))]
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {names[0] if names else 'unknown'}"


if __name__ == "__main__":
    golden = {"machine": machine(), "losses": {name: losses_of(make_prior(**run)) for name, run in RUNS.items()}}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
