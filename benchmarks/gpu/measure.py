"""Measure one model: a training step and sampling, their use of the card, and whether the numbers are right.

Model FLOP utilisation (MFU; PaLM, arXiv 2204.02311, appendix B) = operations that the model needs / seconds / rate of
a large matrix product in the same precision, measured in the same run. The operations are those of forward and
backward without recomputation, counted by torch as the model runs.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Batch = Mapping[str, Tensor]
MATMUL_SIDE = {"cuda": 8192, "cpu": 512}
FLOAT32_TOLERANCE = 1e-3
BFLOAT16_TOLERANCE = 3e-2
SAMPLE_TOLERANCE = 2e-2  # every solver step adds its rounding
FEW_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model at one size: how it is built, trained on a batch, and sampled."""

    name: str
    size: str
    build: Callable[[], nn.Module]
    """Return what is trained; called with a batch, it returns "loss" [batch]."""
    build_sampler: Callable[[], nn.Module]
    """Return what is sampled."""
    batch: Callable[[int], Batch]
    """Return a training batch of so many samples, on the CPU."""
    sample: Callable[[nn.Module, Batch, int], Tensor]
    """Sample for a batch by so many solver steps."""
    train_batch: int
    sample_batch: int
    num_steps: int
    compare: int = 2
    """Samples that the CPU computes, too; 0: the model is too large for that."""
    min_mfu: float = 0.0
    """The target of MFU in training; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast something ran."""

    samples_per_second: float
    mfu: float
    peak_gigabytes: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that must hold, with what was found."""

    name: str
    found: str
    holds: bool


def half_precision(device: str) -> torch.autocast:
    """Return the context of bfloat16; a CPU computes in float32, as many have no such instructions."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    side = MATMUL_SIDE[device]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * side**3 / seconds_of(lambda: left @ right, device, repeats=10)


def seconds_of(work: Callable[[], object], device: str, *, repeats: int, warm_up: int = 2) -> float:
    """Return the median time of one call."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def speed_of(
    work: Callable[[], object], *, samples: int, flops: float, rate: float, device: str, repeats: int
) -> Speed:
    """Time the work, which handles so many samples by so many operations."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(work, device, repeats=repeats)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return Speed(samples_per_second=samples / seconds, mfu=flops / seconds / rate, peak_gigabytes=peak)


def training_step(model: nn.Module, batch: Batch, device: str) -> Callable[[], None]:
    """Return one optimiser step: float32 weights, forward and backward under autocast, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with half_precision(device):
            loss = model(batch)["loss"]
        loss.float().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own, untyped
    """Adds up the operations of matrix products, convolutions and attention.

    torch's FlopCounterMode also tells them apart by module, and cannot do so where a loss asks for a gradient within.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count it."""
        found = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def operations(work: Callable[[], object]) -> float:
    """Return the operations of some work, backward passes included."""
    with _Operations() as counter:
        work()
    return float(counter.total)


def waits_for_the_device(step: Callable[[], None]) -> str | None:
    """Return why one step makes the host wait for the device; none: it does not (CUDA only)."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def agreement(case: Case, device: str) -> list[Check]:
    """Compare loss, gradient and samples of the CPU with those of the device, for the same weights and batch."""
    batch = case.batch(case.compare)
    model, sampler = seeded(case.build), seeded(case.build_sampler).eval()
    expected = (*_loss_and_gradient(model, batch), case.sample(sampler, batch, FEW_STEPS))
    model.to(device)
    sampler.to(device)
    batch = on_device(batch, device)
    with _exact_float32():
        found = (*_loss_and_gradient(model, batch), case.sample(sampler, batch, FEW_STEPS))
    with half_precision(device):
        half = model(batch)["loss"].detach()
    pairs = {
        "loss, float32": (found[0], expected[0], FLOAT32_TOLERANCE),
        "gradient, float32": (found[1], expected[1], FLOAT32_TOLERANCE),
        "samples, float32": (found[2], expected[2], SAMPLE_TOLERANCE),
        "loss, bfloat16": (half, expected[0], BFLOAT16_TOLERANCE),
    }
    return [_agree(name, *pair) for name, pair in pairs.items()]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model; weights that begin at zero get values, or nothing behind them would be compared."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def on_device(batch: Batch, device: str) -> Batch:
    """Move a batch."""
    return {name: values.to(device) for name, values in batch.items()}


def _loss_and_gradient(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    loss = model(batch)["loss"]
    loss.float().mean().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # In float64: torch's float32 norm of 50 million values is off by 3e-3 on a CPU.
    norms = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in grads])
    model.zero_grad(set_to_none=True)
    return loss.detach(), norms


def _agree(name: str, found: Tensor, expected: Tensor, most: float) -> Check:
    left, right = found.double().cpu(), expected.double().cpu()
    error = float((left - right).norm() / right.norm())
    return Check(name=f"device and CPU: {name}", found=f"{error:.1e} (at most {most:.0e})", holds=error <= most)


@contextmanager
def _exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
