"""The priors at the size ``small`` of Shifted Diffusion: 16 layers of width 2048, three CLIPs, T5 states, k = 1024."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.gpu.measure import Batch, Case
from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.diffusion.spec import GaussianPriorSpec, ShiftedPriorSpec
from models.priors.flow.spec import FlowPriorSpec
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.sizes import transformer_of_size
from models.priors.spec import PriorSampling, PriorSpec, TextStateSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import text_of, training_batch, training_random_inputs

FULL = {"embed_dim": 1536, "num_gaussians": 1024, "state_width": 1024, "state_length": 80, "num_components": 319}
QUICK = {"embed_dim": 32, "num_gaussians": 4, "state_width": 16, "state_length": 8, "num_components": 8}

_BATCH = {"autoregressive": 48}  # hundreds of tokens each, where a diffusion has some dozens


def prior_cases(*, quick: bool) -> list[Case]:
    """Return a case for each kind that is trained."""
    size, shape = ("tiny", QUICK) if quick else ("small", FULL)
    return [
        Case(
            name=f"prior {kind}",
            size=size,
            build=_builder(spec, shape["num_gaussians"]),
            build_sampler=_builder(spec, shape["num_gaussians"]),
            batch=_batcher(spec),
            sample=_sample,
            train_batch=4 if quick else _BATCH.get(kind, 256),
            sample_batch=4 if quick else _BATCH.get(kind, 256),
            num_steps=4 if quick else 64,
            min_mfu=0.0 if quick else 0.5,
        )
        for kind, spec in _specs(size, shape).items()
    ]


def _specs(size: str, shape: Mapping[str, int]) -> dict[str, PriorSpec]:
    network = transformer_of_size(size, {"t5": TextStateSpec(shape["state_width"], shape["state_length"])})
    embed_dim = shape["embed_dim"]
    return {
        "shifted": ShiftedPriorSpec(embed_dim, num_gaussians=shape["num_gaussians"], network=network),
        "gaussian": GaussianPriorSpec(embed_dim, network=network),
        "flow": FlowPriorSpec(embed_dim, network=network),
        "projection": ProjectionPriorSpec(embed_dim, network=network),
        "autoregressive": AutoregressivePriorSpec(embed_dim, shape["num_components"], network=network),
    }


def _builder(spec: PriorSpec, num_gaussians: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        rows = torch.randn(2 * spec.embed_dim, spec.embed_dim)
        gaussians = torch.randn(num_gaussians, spec.embed_dim), torch.rand(num_gaussians, spec.embed_dim) + 0.5
        prior: nn.Module = spec.model_class.for_training(
            spec, rows, rows.flip(0), gaussians if spec.reads_gaussians else None
        )
        return prior

    return build


def _batcher(spec: PriorSpec) -> Callable[[int], Batch]:
    def batch(count: int) -> Batch:
        state = spec.network.text_states["t5"]  # type: ignore[attr-defined]  # every trained kind has a network
        lengths = torch.randint(state.max_length // 4, state.max_length + 1, (count,))
        states = TextStates(torch.randn(count, state.max_length, state.width), lengths)
        text = TextFeatures(torch.randn(count, spec.embed_dim), {"t5": states})
        random_inputs = training_random_inputs(spec, range(count), text_dropout=0.1)
        return training_batch(torch.randn(count, spec.embed_dim), text, random_inputs)

    return batch


def _sample(prior: nn.Module, batch: Batch, num_steps: int) -> Tensor:
    text = text_of(batch)
    sampling = PriorSampling(num_steps=num_steps, guidance_scale=2.0)
    samples: Tensor = prior.sample(text, range(len(text)), sampling)  # type: ignore[operator]
    return samples
