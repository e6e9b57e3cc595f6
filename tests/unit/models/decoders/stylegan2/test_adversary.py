"""Both networks under one loss: each has its own gradient, as if they were stepped apart."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.losses import discriminator_loss, feature_distance, generator_loss, info_nce
from models.decoders.stylegan2.spec import AdversarialSettings
from tests.unit.models.decoders.stylegan2.factories import (
    embed_images,
    make_adversary,
    make_batch,
    make_discriminator,
    make_generator,
)


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_each_network_has_the_gradient_of_its_own_loss_alone() -> None:
    adversary = make_adversary(r1_weight=0.0)
    batch = make_batch(adversary.generator)
    adversary(batch)["loss"].sum().backward()
    joint = gradients(adversary.generator), gradients(adversary.discriminator)

    def evaluate() -> tuple[Any, Any, Any]:
        adversary.zero_grad()
        generated = adversary.generator(batch["latent"], batch["embeddings"], batch["noise"])
        return generated, adversary.discriminator(generated, batch["embeddings"]), batch["embeddings"]

    generated, on_generated, z = evaluate()
    loss = generator_loss(on_generated.logits) + 3.0 * info_nce(on_generated.features, z, temperature=0.1)
    (loss + 2.0 * info_nce(embed_images(generated), z, temperature=0.1)).sum().backward()
    torch.testing.assert_close(joint[0], gradients(adversary.generator), rtol=1e-4, atol=1e-5)

    _, on_generated, z = evaluate()
    on_true = adversary.discriminator(batch["images"], z)
    loss = discriminator_loss(on_true.logits, on_generated.logits)
    (loss + 3.0 * info_nce(on_true.features, z, temperature=0.1)).sum().backward()
    torch.testing.assert_close(joint[1], gradients(adversary.discriminator), rtol=1e-4, atol=1e-5)


def test_likeness_teaches_the_generator_alone_and_sees_images_changed_alike() -> None:
    plain, matched = (make_adversary(match_weight=weight, r1_weight=0.0) for weight in (0.0, 4.0))
    batch = make_batch(plain.generator)
    for adversary in (plain, matched):
        adversary(batch)["loss"].sum().backward()
    torch.testing.assert_close(gradients(matched.discriminator), gradients(plain.discriminator))
    generated = plain.generator(batch["latent"], batch["embeddings"], batch["noise"])
    on_generated, on_true = (plain.discriminator(x, batch["embeddings"]).maps for x in (generated, batch["images"]))
    plain.discriminator.zero_grad()
    (
        4.0 * feature_distance(on_generated, [seen.detach() for seen in on_true])
    ).sum().backward()  # on top of the plain loss
    torch.testing.assert_close(gradients(matched.generator), gradients(plain.generator), rtol=1e-4, atol=1e-5)

    changed = make_adversary(
        match_weight=4.0, augmentation="fixed", augmentation_probability=0.8, clip_weight=0.0
    ).eval()
    batch["images"] = changed.generator(batch["latent"], batch["embeddings"], batch["noise"]).detach()
    assert float(changed(batch)["match"].abs().max()) < 1e-5


def test_every_weight_is_trained() -> None:
    for changes in ({}, {"start": "embedding"}):
        adversary = make_adversary(make_generator(**changes), path_weight=1.0)
        adversary(make_batch(adversary.generator, step=0))["loss"].sum().backward()
        assert [n for n, p in adversary.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_r1_is_taken_at_its_interval_and_weighs_as_much_more() -> None:
    weighted, plain = (make_adversary(r1_weight=weight) for weight in (10.0, 0.0))
    batch = make_batch(plain.generator, step=8)
    extra = weighted(batch)["loss"] - plain(batch)["loss"]
    leaf = batch["images"].clone().requires_grad_()
    logits = plain.discriminator(leaf, batch["embeddings"]).logits
    (gradient,) = torch.autograd.grad(logits.sum(), leaf)
    torch.testing.assert_close(extra, 5.0 * 4 * gradient.square().sum(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)
    between = make_batch(plain.generator, step=9)
    torch.testing.assert_close(weighted(between)["loss"], plain(between)["loss"])


def test_path_length_follows_its_mean() -> None:
    adversary, plain = make_adversary(path_weight=2.0, path_interval=2), make_adversary()
    batch = make_batch(plain.generator, step=6)
    extra = adversary(batch)["loss"] - plain(batch)["loss"]
    mean = float(adversary.path_mean)
    assert mean > 0
    assert float(extra.detach().mean()) > 0
    adversary(batch)
    assert float(adversary.path_mean) == pytest.approx(mean * 1.99, rel=1e-4)  # lerp by 0.01 twice
    adversary(make_batch(plain.generator, step=7))
    assert float(adversary.path_mean) == pytest.approx(mean * 1.99, rel=1e-4)


def test_the_networks_are_conditioned_on_the_pseudo_text() -> None:
    adversary = make_adversary(embedding_noise=1.0)
    batch = make_batch(adversary.generator)
    condition = adversary.condition(batch)
    assert not torch.allclose(condition, batch["embeddings"])
    torch.testing.assert_close(condition.norm(dim=1), batch["embeddings"].norm(dim=1))
    assert torch.equal(make_adversary().condition(batch), batch["embeddings"])


def test_augmentation_follows_the_mean_over_all_workers() -> None:
    settings = AdversarialSettings(
        r1_weight=0, clip_weight=0, augmentation="adaptive", augmentation_probability=0.5, augmentation_images=80
    )
    for mean, expected in ((1.0, 0.6), (-1.0, 0.4)):
        adversary = Adversary(
            make_generator(), make_discriminator(), settings,
            group_mean=partial(torch.full_like, fill_value=mean), num_workers=2,
        )  # fmt: skip
        out = adversary(make_batch(adversary.generator))
        assert float(adversary.control.probability) == pytest.approx(expected)
        assert torch.isfinite(out["loss"]).all()


def test_augmentation_hides_nothing_from_the_generators_gradient() -> None:
    adversary = make_adversary(augmentation="fixed", augmentation_probability=1.0, r1_weight=0.0, clip_weight=0.0)
    adversary(make_batch(adversary.generator))["loss"].sum().backward()
    assert sum(float(g.abs().sum()) for g in gradients(adversary.generator)) > 0


def test_evaluation_moves_nothing_and_needs_no_gradients() -> None:
    adversary = make_adversary(
        augmentation="adaptive", augmentation_probability=0.3, path_weight=1.0, r1_weight=1.0
    ).eval()
    before = {name: value.clone() for name, value in adversary.state_dict().items()}
    with torch.no_grad():
        out = adversary(make_batch(adversary.generator, step=0))
    assert {"loss", "generator", "discriminator", "clip_contrast", "feature_contrast_true"} <= set(out)
    assert all(value.shape == (4,) for value in out.values())
    assert all(torch.equal(value, before[name]) for name, value in adversary.state_dict().items())


def test_it_trains_in_bf16_with_r1_in_single_precision() -> None:
    adversary = make_adversary(path_weight=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = adversary(make_batch(adversary.generator, step=0))["loss"]
    loss.mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in adversary.parameters() if p.grad is not None)


def test_clip_is_needed_where_it_counts() -> None:
    with pytest.raises(ValueError, match="found clip_weight above 0 and no embed_images"):
        Adversary(make_generator(), make_discriminator(), AdversarialSettings())


def gradients_and_calls(again: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Take a step with R1 and path lengths; return the gradients, and how often the discriminator's level ran."""
    adversary, calls = make_adversary(r1_interval=1, path_weight=1.0, path_interval=1).train(), []
    adversary.generator.synthesis.gradient_checkpointing = again
    adversary.discriminator.gradient_checkpointing = again
    adversary.discriminator.levels[0].register_forward_pre_hook(lambda *_: calls.append(1))
    adversary(make_batch(adversary.generator, step=0))["loss"].mean().backward()
    return {name: weight.grad for name, weight in adversary.named_parameters() if weight.grad is not None}, len(calls)


def test_levels_computed_again_give_the_same_gradients() -> None:
    (kept, once), (recomputed, twice) = gradients_and_calls(False), gradients_and_calls(True)
    assert twice > once
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)
