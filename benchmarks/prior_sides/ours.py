"""Our side of ``benchmarks.prior``: the baseline prior (one Gaussian, N(0, I)), as its stage trains and samples it."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.prior_sides.case import TEXT_DROPOUT, Case
from benchmarks.sides.serving import serve, timed
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import GaussianPriorSpec
from models.priors.spec import PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import training_batch, training_random_inputs

MATRIX = {"cpu": 2048, "cuda": 8192}  # large enough to be bound by arithmetic, small enough to be quick


def main() -> None:
    """Build the prior and serve."""
    case = Case.from_command_line()
    states = {"clip": TextStateSpec(case.width, case.text_tokens)}
    network = TransformerSpec(case.width, case.num_layers, case.num_heads, text_states=states)
    prior = GaussianPriorSpec(case.width, network=network).build()
    assert isinstance(prior, DiffusionPrior)
    prior.to(case.device, case.dtype)
    works = {
        "train": _training(case, prior, short=False),
        "train short": _training(case, prior, short=True),
        "sample": _sampling(case, prior, short=False),
        "sample short": _sampling(case, prior, short=True),
        "matmul": _matmul(case),
    }
    with FlopCounterMode(display=False) as counter:
        works["train"]()
    size = MATRIX[case.device]
    constants = {"train_flops": float(counter.get_total_flops()), "matmul_flops": 2.0 * size**3}
    serve({name: timed(case.device, work) for name, work in works.items()}, constants)


def _captions(case: Case, rows: int, *, short: bool) -> TextFeatures:
    lengths = case.lengths(rows, short=short)
    return TextFeatures(case.embeddings(rows), {"clip": TextStates(case.states(rows, lengths), lengths)})


def _training(case: Case, prior: DiffusionPrior, *, short: bool) -> Callable[[], None]:
    image, text = case.embeddings(case.batch), _captions(case, case.batch, short=short)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        random_inputs = training_random_inputs(prior.spec, range(case.batch), text_dropout=TEXT_DROPOUT)
        random_inputs = {name: values.to(case.device) for name, values in random_inputs.items()}
        prior(training_batch(image, text, random_inputs))["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sampling(case: Case, prior: DiffusionPrior, *, short: bool) -> Callable[[], None]:
    text = _captions(case, case.captions, short=short)

    def sample() -> None:
        prior.eval().sample(text, range(case.captions), PriorSampling(num_steps=case.num_steps, sampler="ddim"))
        prior.train()

    return sample


def _matmul(case: Case) -> Callable[[], None]:
    size = MATRIX[case.device]
    left, right = (torch.randn(size, size, device=case.device, dtype=case.dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)

    return multiply


if __name__ == "__main__":
    main()
