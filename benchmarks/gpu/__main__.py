"""Priors and decoders on one GPU: ``python -m benchmarks.gpu``.

Each kind of prior at ``small`` and each kind of decoder at the size of its paper: a training step in bfloat16, as
training takes it, and sampling, with and without torch.compile; use of the card against a large matrix product; whether
the CPU computes the same; whether a step waits for the device. One table, one JSON, and exit code 1 where a check
fails. Nothing is imported but torch, diffusers, safetensors, jaxtyping and models/, so that a bare GPU machine runs it.
``--device cpu --quick`` runs the same code on tiny models.
"""

import argparse
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu.decoders import decoder_cases
from benchmarks.gpu.measure import (
    Batch,
    Case,
    Check,
    Speed,
    agreement,
    half_precision,
    matmul_rate,
    on_device,
    operations,
    seeded,
    speed_of,
    training_step,
    waits_for_the_device,
)
from benchmarks.gpu.priors import prior_cases


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    case: str
    size: str
    work: str
    parameters: int
    batch: int
    speed: Speed

    def line(self) -> str:
        """Return the row as text."""
        speed = self.speed
        return (
            f"{self.case:27} {self.size:23} {self.work:16} {self.parameters / 1e6:8.1f} M {self.batch:5} "
            f"{speed.samples_per_second:10.1f}/s {speed.mfu:7.1%} {speed.peak_gigabytes:6.1f} GB"
        )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how long to measure."""

    device: str
    rate: float
    repeats: int
    compiled: bool

    def measure(self, case: Case) -> tuple[list[Row], list[Check]]:
        """Return what was measured of a case, and what was checked."""
        checks = agreement(case, self.device) if case.compare else []
        rows = []
        model = seeded(case.build).to(self.device)
        batch = on_device(case.batch(case.train_batch), self.device)
        rows.append(self._train(case, model, batch, "train", checks))
        if self.compiled:
            model.compile()
            rows.append(self._train(case, model, batch, "train, compiled", checks))
        if case.min_mfu and self.device == "cuda":
            best = max(row.speed.mfu for row in rows)
            found = f"{best:.1%} (at least {case.min_mfu:.0%})"
            checks.append(Check(name="MFU in training", found=found, holds=best >= case.min_mfu))
        del model, batch
        self._free()
        rows.append(self._sample(case))
        self._free()
        return rows, checks

    def _train(self, case: Case, model: nn.Module, batch: Batch, work: str, checks: list[Check]) -> Row:
        step = training_step(model, batch, self.device)
        step()
        if self.device == "cuda":
            step()
            why = waits_for_the_device(step)
            checks.append(Check(name=f"{work}: no step waits for the device", found=why or "none", holds=why is None))
        flops = self._flops(case, model, batch)
        speed = speed_of(
            step, samples=case.train_batch, flops=flops, rate=self.rate, device=self.device, repeats=self.repeats
        )
        return self._row(case, model, work, case.train_batch, speed)

    def _flops(self, case: Case, model: nn.Module, batch: Batch) -> float:
        """Return the operations of one step: counted on the model as it is written, compiled or not."""
        few = {name: values[: case.compare or 2] for name, values in batch.items()}
        compiled, model._compiled_call_impl = model._compiled_call_impl, None

        def work() -> None:
            with half_precision(self.device):
                model(few)["loss"].float().mean().backward()

        counted = operations(work)
        model.zero_grad(set_to_none=True)
        model._compiled_call_impl = compiled
        return counted * case.train_batch / (case.compare or 2)

    @torch.no_grad()
    def _sample(self, case: Case) -> Row:
        sampler = seeded(case.build_sampler).to(self.device).eval()
        batch = on_device(case.batch(case.sample_batch), self.device)

        def work() -> None:
            with half_precision(self.device):
                case.sample(sampler, batch, case.num_steps)

        speed = speed_of(
            work, samples=case.sample_batch, flops=operations(work), rate=self.rate, device=self.device, repeats=1
        )
        return self._row(case, sampler, f"sample, {case.num_steps}", case.sample_batch, speed)

    def _row(self, case: Case, model: nn.Module, work: str, batch: int, speed: Speed) -> Row:
        count = sum(parameter.numel() for parameter in model.parameters())
        return Row(case=case.name, size=case.size, work=work, parameters=count, batch=batch, speed=speed)

    def _free(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """Measure every case, print, and exit."""
    options = _options()
    device = options.device
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rate = matmul_rate(device, dtype)
    _write(f"{name}, torch {torch.__version__}: a large matrix product runs at {rate / 1e12:.3f} TFLOP/s in {dtype}")
    bench = Bench(device=device, rate=rate, repeats=2 if options.quick else 6, compiled=not options.no_compile)
    rows: list[Row] = []
    checks: list[tuple[str, Check]] = []
    for case in prior_cases(quick=options.quick) + decoder_cases(quick=options.quick):
        if options.only not in case.name:
            continue
        begin = time.perf_counter()
        found, held = bench.measure(case)
        rows += found
        checks += [(case.name, check) for check in held]
        for row in found:
            _write(row.line())
        for check in held:
            _write(f"    {'ok   ' if check.holds else 'FAILS'} {check.name}: {check.found}")
        _write(f"    {time.perf_counter() - begin:.0f} s")
    if options.json:
        document = {
            "device": name,
            "torch": torch.__version__,
            "matmul_flops": rate,
            "rows": [asdict(row) for row in rows],
            "checks": [{"case": case, **asdict(check)} for case, check in checks],
        }
        options.json.write_text(json.dumps(document, indent=2))
    sys.exit(0 if all(check.holds for _, check in checks) else 1)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models, few repeats")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
