"""Augmentation: nothing at probability 0, known changes at 1, gradients, and a controller that steers."""

from functools import partial

import pytest
import torch

from models.decoders.stylegan2.augmentation import NUM_RANDOM_INPUTS, AugmentationControl, augment

CHANGES = ("flip", "quarter", "shift", "scale", "turn", "stretch", "brightness", "contrast", "invert", "hue", "dye")


def random_inputs(count: int, *, amounts: dict[str, float], happening: tuple[str, ...]) -> torch.Tensor:
    """Draws under which only the named changes happen at probability 0.5, by the amounts (0.5: neutral)."""
    row = torch.full((NUM_RANDOM_INPUTS,), 0.9)
    row[len(CHANGES) :] = 0.5
    for name in happening:
        row[CHANGES.index(name)] = 0.1
    for name, amount in amounts.items():
        row[len(CHANGES) + [*CHANGES, "shift_down"].index(name)] = amount
    return row.expand(count, -1)


HALF = torch.tensor([0.5])
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def changed(happening: str, **amounts: float) -> torch.Tensor:
    return augment(IMAGES, HALF, random_inputs(2, amounts=amounts, happening=(happening,)))


def test_nothing_happens_at_probability_0() -> None:
    any_random_inputs = torch.rand(2, NUM_RANDOM_INPUTS)
    torch.testing.assert_close(augment(IMAGES, torch.zeros(1), any_random_inputs), IMAGES, rtol=1e-4, atol=1e-5)


def test_known_changes() -> None:
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(changed("flip", flip=0.1), IMAGES.flip(3))
    quarter = changed("quarter", quarter=0.3)
    assert any(torch.allclose(quarter, IMAGES.rot90(k, (2, 3)), atol=1e-4) for k in (1, 3))
    close(changed("shift", shift=1.0)[..., :-1], IMAGES[..., 1:])  # 1/8 of 8 pixels
    close(changed("shift", shift_down=0.0)[..., 1:, :], IMAGES[..., :-1, :])
    brighter = changed("brightness", brightness=0.8413447)  # one std, of 0.2
    close(brighter, IMAGES + 0.2)
    close(changed("contrast", contrast=0.8413447), IMAGES * 2**0.5)


def test_colors_turn_about_grey() -> None:
    grey = IMAGES.mean(1)
    hue, inverted = changed("hue", hue=0.8), changed("invert", invert=0.1)
    torch.testing.assert_close(hue.mean(1), grey, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hue.norm(dim=1), IMAGES.norm(dim=1), rtol=1e-4, atol=1e-4)
    assert float((hue - IMAGES).abs().mean()) > 0.05
    torch.testing.assert_close(inverted.mean(1), -grey, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inverted - inverted.mean(1, keepdim=True), IMAGES - grey[:, None])


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_and_lets_gradients_through(name: str) -> None:
    amounts = dict.fromkeys((name,), 0.3)
    images = IMAGES.clone().requires_grad_()
    out = augment(images, HALF, random_inputs(2, amounts=amounts, happening=(name,)))
    assert float((out.detach() - IMAGES).abs().mean()) > 0.01
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().mean()) > 0.01


def test_the_controller_steers_to_the_target_and_stays_in_0_to_1() -> None:
    control = AugmentationControl(0.0)
    for _ in range(30):
        control.update(torch.tensor(0.9), 8, target=0.6, images_to_one=800)
    torch.testing.assert_close(control.probability, torch.tensor([0.3]))
    for _ in range(40):
        control.update(torch.tensor(0.2), 8, target=0.6, images_to_one=800)
    assert float(control.probability) == 0.0
    again = AugmentationControl(0.5)
    again.load_state_dict(control.state_dict())
    assert float(again.probability) == 0.0
    assert again.bfloat16().probability.dtype == torch.float32
