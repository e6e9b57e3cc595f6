"""A whole prior around the best network there is, known in closed form: it must draw what each caption stands for."""

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.processes import Gaussian
from models.diffusion.spec import Target
from models.diffusion.targets import output_scale, true_target
from models.gaussians.bank import GaussianBank
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import ShiftedPriorSpec
from models.priors.spec import PriorSampler, PriorSampling
from models.priors.text import TextFeatures

CAPTIONS = torch.tensor([[1.0, 0.2], [-0.3, 1.0]])
MEANS = torch.tensor([[2.0, -1.0], [-1.0, 1.5]])
COVARIANCES = torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.6]]])
EACH = 2_500


class BestNetwork(nn.Module):
    """Answer as a perfectly trained network would, where caption c stands for N(MEANS[c], COVARIANCES[c])."""

    def __init__(self, prior: DiffusionPrior) -> None:
        super().__init__()
        self.parts = (prior.spec.target, prior.process, prior.bank, prior.image_scale, prior.text_scale)

    def prefix(self, text: TextFeatures, drop_text: Tensor) -> Tensor:
        """Return which caption each is."""
        assert not drop_text.any()
        scale = self.parts[4]
        return torch.cdist(text.embedding * scale.std + scale.mean, CAPTIONS).argmin(1)

    def predict(self, prefix: Tensor, noisy: Tensor, time: Tensor, gaussian_index: Tensor) -> Tensor:
        target, process, bank, scale, _ = self.parts
        gaussian = Gaussian(*bank.moments(gaussian_index))
        abar = process.alpha_bar[time[0]].float()
        spread = (abar * scale.std.square() + (1 - abar) * gaussian.std.square()).sqrt()
        z_t = noisy * spread + abar.sqrt() * scale.mean + (1 - abar.sqrt()) * gaussian.mean
        rest = z_t - abar.sqrt() * MEANS[prefix] - (1 - abar.sqrt()) * gaussian.mean
        seen = abar * COVARIANCES[prefix] + (1 - abar) * torch.diag_embed(gaussian.std.square())
        solved = torch.linalg.solve(seen, rest[:, :, None])
        z_0 = MEANS[prefix] + abar.sqrt() * (COVARIANCES[prefix] @ solved)[:, :, 0]
        noise = (gaussian.whiten(z_t) - abar.sqrt() * gaussian.whiten(z_0)) / (1 - abar).sqrt()
        affine = output_scale(process, target, time, gaussian, m=scale.mean, s=scale.std)
        return (true_target(process, target, z_0, noise, time, gaussian=gaussian) - affine.centre) / affine.spread


def make_best_prior(target: Target) -> DiffusionPrior:
    bank = GaussianBank(torch.tensor([[3.0, 0.5], [-0.5, 2.0]]), torch.tensor([[0.5, 0.3], [0.2, 0.4]]), kappa=2.0)
    prior = DiffusionPrior(ShiftedPriorSpec(2, 2, target=target), bank)
    prior.measure(torch.cat([MEANS, MEANS + 1]), CAPTIONS * 3)
    prior.network = BestNetwork(prior)  # type: ignore[assignment]
    return prior


@pytest.mark.parametrize(
    ("target", "sampler"), [("sample", "ancestral"), ("velocity", "ancestral"), ("velocity", "ddim"), ("noise", "ddim")]
)
def test_each_captions_distribution_is_recovered(target: Target, sampler: PriorSampler) -> None:
    prior = make_best_prior(target)
    text = TextFeatures(CAPTIONS.repeat_interleave(EACH, 0))
    assert prior.bank.select(CAPTIONS).tolist() == [0, 1]
    generated = prior.sample(text, range(2 * EACH), PriorSampling(num_steps=80, sampler=sampler))
    for found, mean, covariance in zip(generated.chunk(2), MEANS, COVARIANCES, strict=True):
        variance = covariance.diagonal()
        error = (found.mean(0) - mean).abs() / variance.sqrt()
        assert (error < 5 / EACH**0.5 + 0.02).all(), error
        error = (torch.cov(found.T) - covariance).abs() / (variance[:, None] * variance).sqrt()
        assert (error < 5 * (2 / EACH) ** 0.5 + 0.03).all(), error
