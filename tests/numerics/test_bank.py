"""The bank of Gaussians: which one a caption gets, and what learnable ones learn from."""

import itertools

import pytest
import torch
from torch import Tensor

from models.diffusion.processes import Gaussian
from models.gaussians.bank import GaussianBank
from models.gaussians.learning import NUM_BANK_SAMPLES, bank_loss
from models.priors.spec import PriorSampling
from models.priors.training import text_of
from tests.numerics.golden_losses import BATCH, DIM, make_batch, make_prior


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


def make_bank(count: int = 5, **options: bool | str) -> GaussianBank:
    generator = torch.Generator().manual_seed(0)
    means, stds = torch.randn(2, count, DIM, generator=generator)
    return GaussianBank(means, stds.abs() + 0.3, kappa=5.0, **options)  # type: ignore[arg-type]


def make_text(count: int = 40) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(3))


def test_the_gaussian_is_chosen_by_cosine_with_the_caption() -> None:
    """Method eq. 5; the length of a mean must not matter, nor may the precision."""
    bank = GaussianBank(torch.tensor([[10.0, 0.0], [0.0, 0.1]]), torch.ones(2, 2), kappa=5.0)
    assert bank.select(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).tolist() == [1, 0]
    with torch.autocast("cpu", torch.bfloat16):
        assert bank.select(torch.tensor([[1.0, 1.001], [1.001, 1.0]])).tolist() == [1, 0]


def test_selection_by_samples_is_the_mean_cosine_over_fixed_samples() -> None:
    bank, text = make_bank(selection="samples"), make_text()
    expected = []
    for y in text:
        scores = [
            sum(cosine(bank.means[j] + bank.stds[j] * noise, y) for noise in bank.selection_noise)
            for j in range(bank.num_gaussians)
        ]
        expected.append(max(range(len(scores)), key=scores.__getitem__))
    assert bank.select(text).tolist() == expected
    assert torch.equal(make_bank(selection="samples").select(text), bank.select(text))
    assert bank.select(text).tolist() != make_bank().select(text).tolist()


def test_samples_move_with_the_gaussians() -> None:
    bank, text = make_bank(2, selection="samples", learnable=True), make_text(1)
    with torch.no_grad():
        target = 100 * text[0]
        bank.mean_offset[1] = (target - bank.means[1]) / bank.stds[1]
        assert bank.select(text).tolist() == [1]
        bank.mean_offset[1] = (-target - bank.means[1]) / bank.stds[1]
        assert bank.select(text).tolist() == [0]


def test_bank_loss_is_that_of_the_paper() -> None:
    """Method eq. 6, written out pair by pair."""
    bank = make_bank()
    z_0, index = make_text(6), torch.tensor([0, 3, 3, 1, 0, 3])
    mean, std = bank.moments(index)
    noise = torch.randn(6, NUM_BANK_SAMPLES, DIM, generator=torch.Generator().manual_seed(5))
    pairs = list(itertools.permutations([0, 1, 3], 2))
    separation = sum(cosine(bank.means[i], bank.means[j]) for i, j in pairs) / len(pairs)
    expected = []
    for row in range(6):
        samples = [bank.means[index[row]] + 5 * bank.stds[index[row]] * eps for eps in noise[row]]
        expected.append(0.7 * separation - sum(cosine(z_0[row], z) for z in samples) / NUM_BANK_SAMPLES)
    found = bank_loss(z_0, index, mean, std, noise, separation_weight=0.7)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    alone = bank_loss(z_0, index * 0, *bank.moments(index * 0), noise, separation_weight=1e6)
    assert (alone.abs() <= 1).all()  # a single Gaussian has nobody to keep apart from


def test_the_bank_learns_from_its_own_loss_alone_and_the_network_from_the_other() -> None:
    """Method eq. 6: no gradient of the denoising loss reaches the Gaussians."""
    prior = make_prior(learnable=True, trained=True)
    losses = prior(make_batch(prior))
    torch.testing.assert_close(losses["loss"], losses["denoising_loss"] + losses["bank_loss"])
    bank, network = list(prior.bank.parameters()), list(prior.network.parameters())
    assert len(bank) == 2

    def gradients(name: str, of: list[torch.nn.Parameter]) -> list[Tensor | None]:
        return list(torch.autograd.grad(losses[name].sum(), of, retain_graph=True, allow_unused=True))

    assert gradients("denoising_loss", bank) == [None, None]
    assert all(gradient is None for gradient in gradients("bank_loss", network))
    from_own = gradients("bank_loss", bank)
    for gradient, total in zip(from_own, gradients("loss", bank), strict=True):
        assert gradient is not None
        assert gradient.abs().max() > 0
        assert total is not None
        torch.testing.assert_close(gradient, total)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients("denoising_loss", network))


def test_the_bank_loss_has_the_weight_of_the_time_step() -> None:
    """w_t of method eq. 7, whatever target and weight the network is trained with."""
    prior = make_prior(learnable=True, target="noise", loss_weight="uniform", separation_weight=0.3)
    batch = make_batch(prior)
    index, mean, std = prior.bank(batch["text_embedding"])
    plain = bank_loss(batch["image_embedding"], index, mean, std, batch["bank_noise"], separation_weight=0.3)
    weight = (1 - prior.process.alpha_bar[batch["time"]]).float()
    torch.testing.assert_close(prior(batch)["bank_loss"], weight * plain)


def test_weight_decay_pulls_learnable_gaussians_to_the_fitted_ones() -> None:
    prior = make_prior(learnable=True)
    fitted = [part.detach().clone() for part in prior.bank.gaussians()]
    torch.testing.assert_close(fitted, list(make_prior().bank.gaussians()))
    with torch.no_grad():
        prior.bank.mean_offset.fill_(2.0)
        prior.bank.log_scale.fill_(-1.0)
    for parameter in prior.bank.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(prior.bank.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(300):
        optimizer.step()
    torch.testing.assert_close([part.detach() for part in prior.bank.gaussians()], fitted, rtol=1e-4, atol=1e-4)


def test_learning_brings_the_gaussians_to_their_embeddings() -> None:
    """Eq. 6 is minimised by Gaussians that point where their embeddings do and stay apart from each other."""
    bank = make_bank(2, learnable=True)
    z_0 = torch.cat([torch.ones(32, DIM), -torch.ones(32, DIM)])
    chosen = bank.select(z_0[[0, -1]])
    before = [cosine(bank.means[j], z) for j, z in zip(chosen, z_0[[0, -1]], strict=True)]
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.05)
    for _ in range(150):
        index, mean, std = bank(z_0)
        noise = torch.randn(64, NUM_BANK_SAMPLES, DIM, generator=generator)
        loss = bank_loss(z_0, index, mean, std, noise, separation_weight=1.0).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    means = bank.gaussians()[0].detach()
    after = [cosine(means[j], z) for j, z in zip(chosen, z_0[[0, -1]], strict=True)]
    assert max(before) < 0.8
    assert min(after) > 0.95
    assert (bank.log_scale < 0).all()  # samples near the mean point where it does


def test_gaussians_stay_exact_when_training_is_not() -> None:
    prior = make_prior(learnable=True)
    exact = prior.bank(make_text(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = prior.bank(make_text(3))
        losses = prior(make_batch(prior))
    for one, other in zip(found, exact, strict=True):
        assert torch.equal(one, other)
    assert found[1].dtype == losses["bank_loss"].dtype == losses["loss"].dtype == torch.float32
    torch.testing.assert_close(losses["bank_loss"], prior(make_batch(prior))["bank_loss"], rtol=0, atol=0)
    halved = make_prior(learnable=True).bfloat16().bank(make_text(3))
    assert torch.equal(halved[1], exact[1])  # offsets of zero, which round to themselves


def test_sharded_gaussians_are_read_while_they_are_whole() -> None:
    """ZeRO 3 gathers a module's parameters for its own forward pass alone; outside of it they are empty."""
    prior = make_prior(learnable=True)
    torch.nn.init.normal_(prior.bank.mean_offset)
    expected = prior(make_batch(prior))["loss"].detach()
    whole = {name: parameter.data for name, parameter in prior.bank.named_parameters()}

    def gather(module: torch.nn.Module, _: object) -> None:
        for name, parameter in module.named_parameters():
            parameter.data = whole[name]

    def release(module: torch.nn.Module, *_: object) -> None:
        for parameter in module.parameters():
            parameter.data = torch.empty(0)

    release(prior.bank)
    prior.bank.register_forward_pre_hook(gather)
    prior.bank.register_forward_hook(release)
    with torch.no_grad():
        assert torch.equal(prior(make_batch(prior))["loss"], expected)
        prior.sample(text_of(make_batch(prior)), range(BATCH), PriorSampling(num_steps=2))


def test_an_isotropic_bank_has_the_scale_asked_for() -> None:
    mean, std = GaussianBank.isotropic(3, 0.25).moments(torch.zeros(2, dtype=torch.long))
    assert Gaussian(mean, std).colour(torch.ones(2, 3)).tolist() == [[0.25] * 3] * 2


@pytest.mark.parametrize("learnable", [False, True])
def test_a_variant_starts_from_the_gaussians_as_they_are(learnable: bool) -> None:
    bank = make_bank(learnable=True)
    torch.nn.init.normal_(bank.mean_offset)
    torch.nn.init.normal_(bank.log_scale)
    other = bank.variant(learnable=learnable, selection="samples")
    torch.testing.assert_close(other.gaussians(), bank.gaussians())
    assert other.learnable == learnable


def test_texts_of_another_space_choose_the_gaussian_of_their_images() -> None:
    """Two Gaussians have captions, which share a large component; a third has none, and is never chosen."""
    generator = torch.Generator().manual_seed(0)
    means = 4 * torch.eye(3)
    owners = torch.tensor([0, 1]).repeat(20)
    images = means[owners] + 0.1 * torch.randn(40, 3, generator=generator)
    said = torch.zeros(40, 5)
    said[:, 0], said[torch.arange(40), 1 + owners] = 9.0, 1.0
    texts = said + 0.1 * torch.randn(40, 5, generator=generator)
    bank = GaussianBank(means, torch.ones(3, 3), kappa=5.0, text_dim=5)
    assert bank.lacks_texts
    bank.learn_texts(images, texts)
    assert not bank.lacks_texts
    assert torch.equal(bank.select_images(images), owners)
    assert torch.equal(bank.select(texts), owners)
    assert torch.equal(bank.widened(2.0).select(texts), owners)
    assert torch.equal(bank.variant(learnable=True, selection="means").select(texts), owners)
    anything = torch.randn(200, 5, generator=generator)
    assert set(bank.select(anything).tolist()) == {0, 1}
    index, mean, std = bank(images, of_images=True)
    assert torch.equal(index, owners)
    assert torch.equal(mean, means[owners])
    assert torch.equal(std, 5 * torch.ones(40, 3))
    loaded = GaussianBank.blank(3, 3, text_dim=5)
    loaded.load_state_dict(bank.state_dict())
    assert torch.equal(loaded.select(texts), owners)


def test_a_single_gaussian_is_chosen_by_texts_of_any_width() -> None:
    bank = GaussianBank.standard(3)
    assert bank.select(torch.ones(2, 7)).tolist() == [0, 0]
