"""What a bank of Gaussians holds and refuses."""

import pytest
import torch

from models.gaussians.bank import GaussianBank

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("means", "stds", "kappa", "words"),
    [
        (torch.zeros(2, 3), torch.ones(3, 2), 1.0, r"means \[2, 3\] and stds \[3, 2\]"),
        (torch.zeros(0, 3), torch.ones(0, 3), 1.0, "k >= 1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 1.0, "positive stds"),
        (ONES * float("nan"), ONES, 1.0, "expected finite means"),
        (ONES, ONES * float("inf"), 1.0, "expected finite means"),
        (ONES * 1e30, ONES, 1.0, "too large for their length"),
        (ONES, ONES, 1e-60, "kappa 1e-60: expected 0.1 to 100"),
        (ONES, ONES, 1e39, r"kappa 1e\+39: expected 0.1 to 100"),
        (ONES, ONES, float("inf"), "kappa inf"),
    ],
)
def test_impossible_gaussians_are_refused(means: torch.Tensor, stds: torch.Tensor, kappa: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianBank(means, stds, kappa=kappa)


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="selection is 'median': allowed are means and samples"):
        GaussianBank(ONES, ONES, kappa=1.0, selection="median")  # type: ignore[arg-type]


def test_only_learnable_banks_have_parameters() -> None:
    assert not list(GaussianBank(ONES, ONES, kappa=1.0).parameters())
    learnable = GaussianBank(ONES, ONES, kappa=1.0, learnable=True)
    assert {name for name, _ in learnable.named_parameters()} == {"mean_offset", "log_scale"}


def test_the_state_holds_everything() -> None:
    bank = GaussianBank(torch.randn(2, 3), torch.rand(2, 3) + 0.1, kappa=5.0, learnable=True, selection="samples")
    torch.nn.init.normal_(bank.mean_offset)
    copy = GaussianBank.blank(2, 3).variant(learnable=True, selection="samples")
    copy.load_state_dict(bank.state_dict())
    text = torch.randn(10, 3)
    for one, other in zip(bank(text), copy(text), strict=True):
        assert torch.equal(one, other)
    assert {"means", "stds", "kappa", "selection_noise", "mean_offset", "log_scale"} == set(bank.state_dict())


def test_the_standard_bank_is_the_baselines() -> None:
    bank = GaussianBank.standard(3)
    index, mean, std = bank(torch.randn(4, 3))
    assert (bank.num_gaussians, bank.embed_dim, index.tolist()) == (1, 3, [0] * 4)
    assert torch.equal(mean, torch.zeros(4, 3))
    assert torch.equal(std, torch.ones(4, 3))
