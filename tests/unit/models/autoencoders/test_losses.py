"""The losses of autoencoders: each side of the adversarial game has its own gradients, and distances are distances."""

import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from models.autoencoders.losses import (
    AutoencoderLoss,
    GradientDistance,
    LossWeights,
    PatchDiscriminator,
    VggDistance,
    adversarial_terms,
)
from models.autoencoders.spec import AdversarySpec
from tests.specs import make_autoencoder_spec


def make_loss(kind="kl", **weights):
    torch.manual_seed(0)
    spec = make_autoencoder_spec(
        kind, resolution=16, unshuffle=2, channels=(16,), blocks_per_level=1, latent_channels=2, attention=False,
        num_codes=8,
    )  # fmt: skip
    model = spec.build()
    adversary = PatchDiscriminator(AdversarySpec(width=8, num_layers=2))
    return AutoencoderLoss(model, LossWeights(**weights), perceptual=GradientDistance(2), discriminator=adversary)


def make_batch(count=3, step=5):
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.randint(0, 256, (count, 16, 16, 3), generator=generator, dtype=torch.uint8),
        "noise": torch.randn(count, 2, 8, 8, generator=generator),
        "positions": torch.rand(count, generator=generator),
        "step": torch.full((count,), step),
    }


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def test_each_side_of_the_game_moves_its_own_weights_alone():
    loss, batch = make_loss(adversarial=0.5), make_batch()
    real = torch.rand(3, 3, 16, 16)
    fake, _ = loss.autoencoder(real, batch["noise"])
    terms = adversarial_terms(loss.discriminator, real, fake)
    terms["generator"].sum().backward(retain_graph=True)
    assert all(grad is None for grad in gradients(loss.discriminator).values())
    assert any(grad is not None and grad.abs().max() > 0 for grad in gradients(loss.autoencoder).values())
    loss.zero_grad()
    terms["discriminator"].sum().backward()
    assert all(grad is None for grad in gradients(loss.autoencoder).values())
    assert all(grad is not None for grad in gradients(loss.discriminator).values())


def test_one_backward_pass_gives_both_sides_what_two_would():
    loss, batch = make_loss(adversarial=0.5), make_batch()
    out = loss(batch)
    out["loss"].mean().backward()
    together = gradients(loss)
    loss.zero_grad()
    terms = loss(batch)
    (terms["loss"] - terms["discriminator"]).mean().backward()
    for name, grad in gradients(loss.autoencoder).items():
        torch.testing.assert_close(grad, together[f"autoencoder.{name}"])
    loss.zero_grad()
    loss(batch)["discriminator"].mean().backward()
    for name, grad in gradients(loss.discriminator).items():
        torch.testing.assert_close(grad, together[f"discriminator.{name}"])


def test_the_hinge_losses_are_those_of_the_paper():
    class Given(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3), keepdim=True)

    real, fake = torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 4, 4), -3.0)
    terms = adversarial_terms(Given(), real, fake)
    assert terms["generator"].item() == pytest.approx(3.0)
    assert terms["discriminator"].item() == pytest.approx((0.75 + 0.0) / 2)


@pytest.mark.parametrize(("step", "takes_part"), [(4, False), (5, True)])
def test_the_adversary_waits_for_its_step(step, takes_part):
    loss = make_loss(adversarial=0.5, adversarial_start=5)
    loss(make_batch(step=step))["loss"].mean().backward()
    moved = [grad is not None and bool(grad.abs().max() > 0) for grad in gradients(loss.discriminator).values()]
    assert all(moved) == takes_part
    assert any(moved) == takes_part


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_samples_loss_depends_on_itself_alone(kind):
    loss, batch = make_loss(kind, adversarial=0.5).eval(), make_batch()
    whole = loss(batch)
    for row in range(3):
        alone = loss({name: tensor[row : row + 1] for name, tensor in batch.items()})
        torch.testing.assert_close(alone["loss"][0], whole["loss"][row], rtol=1e-4, atol=1e-5)
    assert all(value.shape == (3,) for value in whole.values())


def test_the_codebook_moves_in_training_only():
    loss, batch = make_loss("vq"), make_batch()
    before = loss.autoencoder.codebook.codes.clone()
    loss.eval()(batch)
    assert torch.equal(loss.autoencoder.codebook.codes, before)
    loss.train()(batch)
    assert not torch.equal(loss.autoencoder.codebook.codes, before)


def test_every_term_counts_as_it_is_weighed():
    weights = {"absolute": 2.0, "square": 3.0, "perceptual": 0.5, "kl": 0.1, "adversarial": 0.25}
    terms = make_loss(**weights)(make_batch())
    expected = 2.0 * terms["absolute_error"] + 3.0 * terms["square_error"] + 0.5 * terms["perceptual"]
    expected = expected + 0.1 * terms["kl"] / (3 * 16 * 16) + 0.25 * terms["generator"] + terms["discriminator"]
    torch.testing.assert_close(terms["loss"], expected)


def test_slopes_separate_edges_from_even_changes():
    distance, image = GradientDistance(), torch.rand(2, 3, 16, 16)
    assert torch.equal(distance(image, image), torch.zeros(2))
    assert distance(image, image + 0.3).max() < 1e-6
    assert distance(image, image.flip(-1)).min() > 0.05


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"features": make_layers(cfgs["D"])}).eval()


def test_vgg_features_are_torchvisions(vgg):
    distance = VggDistance(vgg.state_dict())
    a, b = (torch.rand(1, 3, 32, 32) * 2 - 1 for _ in range(2))
    expected = torch.zeros(1)
    x, y = ((p / 2 + 0.5 - distance.mean) / distance.std for p in (a, b))
    for index, layer in enumerate(vgg["features"]):
        x, y = layer(x), layer(y)
        if index in (3, 8, 15, 22, 29):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
            unit = [f / f.norm(dim=1, keepdim=True).clamp_min(1e-8) for f in (x, y)]
            expected += (unit[0] - unit[1]).square().sum(1).mean((1, 2))
    torch.testing.assert_close(distance(a, b), expected)
    assert distance(a, a).item() == 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_other_weights_than_vggs_are_refused(vgg):
    state = {name: tensor for name, tensor in vgg.state_dict().items() if name != "features.28.bias"}
    with pytest.raises(ValueError, match=r"found no features\.28\.bias among its 25 tensors: expected torchvision's"):
        VggDistance(state)
