"""``python -m benchmarks.prior --kinds``: time per caption and retrieval of all fast priors beside 64-step diffusion.

All are trained here, on the same synthetic pairs, with networks of one size, the same number of steps and the same
batches; the distilled ones go on from the diffusion prior for as many steps again. Then they sample in turn, round by
round. Pairs: image = m + A c + noise / 2, text = n + B c + noise / 2 of one hidden c. Retrieval is among the held-out
images; the diversity of two samples for one caption stands beside it, as a prior of one output for each caption buys
retrieval with it.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.sides.serving import Stopwatch, Timing
from models.priors.base import Prior
from models.priors.diffusion.distillation import Distillation, distillation_random_inputs
from models.priors.diffusion.spec import DistilledSpec, GaussianPriorSpec
from models.priors.flow.spec import FlowPriorSpec
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.sizes import NetworkSize, transformer_of_size
from models.priors.spec import PriorSampling, PriorSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs
from models.similarity import diversity, embedding_report

TEXT_DROPOUT = 0.1
DISTILLED = (1, 2, 4)
FLOW_STEPS = (8, 16)
TARGETS = {"projection": 20.0, "distilled": 20.0, "flow": 4.0}


@dataclass(frozen=True, kw_only=True)
class KindsCase:
    """One comparison."""

    size: NetworkSize = "tiny"
    embed_dim: int = 128
    hidden_dim: int = 32
    pairs: int = 4000
    held_out: int = 500
    batch: int = 256
    steps: int = 600
    sampling_steps: int = 64
    captions: int = 256
    rounds: int = 5
    device: str = "cpu"


@dataclass(frozen=True)
class Contender:
    """A trained prior, and how it is sampled."""

    name: str
    prior: Prior
    sampling: PriorSampling


def make_pairs(case: KindsCase) -> tuple[Tensor, Tensor]:
    """Return images and texts, the held-out ones last: [pairs + held_out, embed] each."""
    generator = torch.Generator().manual_seed(0)
    sample = partial(torch.randn, generator=generator)
    count, dim = case.pairs + case.held_out, case.embed_dim
    hidden = sample(count, case.hidden_dim)
    sides = []
    for _ in range(2):
        direction = sample(dim)
        mean = dim**0.5 * direction / direction.norm()
        mixed = hidden @ sample(case.hidden_dim, dim) / case.hidden_dim**0.5
        sides.append((mean + mixed + 0.5 * sample(count, dim)).to(case.device))
    return sides[0], sides[1]


def train(case: KindsCase, module: nn.Module, inputs: Callable[[range], dict[str, Tensor]]) -> None:
    """Train on batches that are the same for every kind."""
    images, texts = make_pairs(case)
    optimizer = torch.optim.AdamW([weight for weight in module.parameters() if weight.requires_grad], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, case.steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(case.steps):
        rows = torch.randint(case.pairs, (case.batch,), generator=generator)
        random_inputs = inputs(range(step * case.batch, (step + 1) * case.batch))
        random_inputs = {name: values.to(case.device) for name, values in random_inputs.items()}
        module(training_batch(images[rows], TextFeatures(texts[rows]), random_inputs))["loss"].mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    module.eval()


def contenders(case: KindsCase) -> list[Contender]:
    """Train every prior, the diffusion prior first."""
    images, texts = make_pairs(case)
    network = transformer_of_size(case.size)
    specs: dict[str, PriorSpec] = {
        "diffusion": GaussianPriorSpec(case.embed_dim, network=network, noise_scale=1.0),
        "flow": FlowPriorSpec(case.embed_dim, network=network),
        "projection": ProjectionPriorSpec(case.embed_dim, network=network),
    }
    priors: dict[str, Any] = {}
    for name, spec in specs.items():
        torch.manual_seed(0)
        prior = spec.model_class.for_training(spec, images[: case.pairs], texts[: case.pairs], None).to(case.device)
        train(case, prior, partial(training_random_inputs, spec, text_dropout=TEXT_DROPOUT))
        priors[name] = prior
    found = [
        Contender("diffusion", priors["diffusion"], PriorSampling(num_steps=case.sampling_steps)),
        Contender("diffusion, DDIM", priors["diffusion"], PriorSampling(num_steps=case.sampling_steps, sampler="ddim")),
    ]
    for steps in DISTILLED:
        distillation = Distillation(
            priors["diffusion"], DistilledSpec(num_steps=steps, teacher_steps=case.sampling_steps)
        ).to(case.device)
        student = distillation.student
        train(case, distillation, partial(distillation_random_inputs, student.spec, text_dropout=0.0))
        found.append(Contender(f"distilled, {steps}", student, PriorSampling()))
    found += [Contender(f"flow, {steps}", priors["flow"], PriorSampling(num_steps=steps)) for steps in FLOW_STEPS]
    return [*found, Contender("projection", priors["projection"], PriorSampling())]


def measure(case: KindsCase, found: list[Contender]) -> dict[str, dict[str, float]]:
    """Return what each prior's samples for the held-out captions are worth."""
    images, texts = (side[case.pairs :] for side in make_pairs(case))
    reports = {}
    for one in found:
        sampled = [
            one.prior.sample(TextFeatures(texts), range(first, first + case.held_out), one.sampling)
            for first in (0, case.held_out)
        ]
        report = embedding_report(sampled[0].cpu(), images.cpu(), [case.embed_dim])
        both = torch.stack(sampled, dim=1).double().cpu()
        reports[one.name] = report | {"diversity": float(diversity(both, [case.embed_dim]).mean())}
    return reports


def race(case: KindsCase, found: list[Contender]) -> dict[str, list[Timing]]:
    """Let them sample in turn."""
    text = TextFeatures(make_pairs(case)[1][: case.captions])
    timings: dict[str, list[Timing]] = {one.name: [] for one in found}
    for turn in range(case.rounds + 1):
        for one in found:
            stopwatch = Stopwatch(case.device)
            one.prior.sample(text, range(case.captions), one.sampling)
            if turn:  # the first warms up
                timings[one.name].append(stopwatch.read())
    return timings


def compare_kinds(case: KindsCase, console: Console) -> None:
    """Train, measure and print the table."""
    found = contenders(case)
    reports, timings = measure(case, found), race(case, found)
    network = transformer_of_size(case.size)
    title = (
        f"{case.size} ({network.width} x {network.num_layers}), embeddings of {case.embed_dim}, {case.pairs} pairs, "
        f"{case.steps} steps of {case.batch}; {case.captions} captions at a time, {case.rounds} rounds, {case.device}"
    )
    table = Table("prior, steps", title=title, title_justify="left")
    for heading in ("ms a caption", "x faster (range)", "by CPU time", "target", "R@1", "cosine", "diversity"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(one.name, *_cells(case, one.name, timings, reports[one.name]))
    console.print(table)


def _cells(case: KindsCase, name: str, timings: dict[str, list[Timing]], report: dict[str, float]) -> list[str]:
    pairs = list(zip(timings["diffusion"], timings[name], strict=True))
    faster = [before.seconds / own.seconds for before, own in pairs]
    used = statistics.median(before.cpu_seconds / own.cpu_seconds for before, own in pairs)
    per_caption = 1000 * statistics.median(own.seconds for own in timings[name]) / case.captions
    target = TARGETS.get(name.partition(",")[0])
    return [
        f"{per_caption:.3g}",
        f"{statistics.median(faster):.1f} ({min(faster):.1f} to {max(faster):.1f})",
        f"{used:.1f}",
        "" if target is None else f"{target:g}",
        *(f"{report[key]:.3f}" for key in ("retrieval_at_1", "cosine_true", "diversity")),
    ]
