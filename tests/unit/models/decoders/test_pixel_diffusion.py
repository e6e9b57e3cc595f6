"""The pixel decoder: what comes in reaches all that comes out, and nothing else does."""

import pytest
import torch

from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.registry import read_spec
from models.decoders.sampling import DecoderSampling
from models.diffusion.spec import ProcessConfig
from tests.specs import make_spec


def make_decoder(**fields):
    torch.manual_seed(0)
    small = {"embed_dim": 12, "resolution": 16, "unshuffle": 2, "channels": (32, 32), "token_dim": 16}
    small |= {"layout_channels": 4, "layout_resolution": 4, "layout_hidden": 16}
    return make_spec(PixelDiffusionSpec, **(small | fields)).build().eval()


def random_inputs(count, seed=0, **given):
    generator = torch.Generator().manual_seed(seed)
    made = {
        "noise": torch.randn(count, 3, 16, 16, generator=generator),
        "time": torch.rand(count, generator=generator),
        "blur": torch.randn(count, 12, generator=generator),
        "dropout": torch.rand(count, generator=generator),
    }
    return made | given


def sample(decoder, embeddings, seeds, **sampling):
    return decoder.sample(embeddings, seeds, DecoderSampling(**sampling))


@pytest.fixture(scope="module")
def decoder():
    return make_decoder()


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("process", [ProcessConfig(), ProcessConfig(path="ddpm", target="noise")])
@pytest.mark.parametrize("fields", [{}, {"layout_channels": 0}, {"attention_levels": 2, "blocks_per_level": 2}])
def test_loss_and_sample_have_the_right_shapes(process, fields, embeddings):
    decoder = make_decoder(process=process, **fields)
    loss = decoder.loss(torch.zeros(3, 3, 16, 16), embeddings, **random_inputs(3))
    assert loss.shape == (3,)
    assert loss.isfinite().all()
    images = sample(decoder, embeddings, [1, 2, 3], num_steps=2)
    assert images.shape == (3, 3, 16, 16)
    assert images.abs().max() <= 1


def test_every_weight_learns_from_the_loss(embeddings):
    decoder = make_decoder(attention_levels=1, empty_probability=0.5)
    decoder.loss(
        torch.rand(3, 3, 16, 16), embeddings, **random_inputs(3, dropout=torch.tensor([0.1, 0.9, 0.9]))
    ).mean().backward()
    assert [name for name, weight in decoder.named_parameters() if weight.grad is None] == []


def test_with_all_random_inputs_given_a_samples_loss_depends_on_nothing_else(embeddings):
    decoder = make_decoder(embedding_noise=0.5, empty_probability=0.5).eval()
    images = torch.rand(3, 3, 16, 16)
    given = {
        "noise": torch.randn_like(images),
        "time": torch.tensor([0.1, 0.5, 0.9]),
        "blur": torch.randn_like(embeddings),
        "dropout": torch.tensor([0.2, 0.7, 0.4]),
    }
    whole = decoder.loss(images, embeddings, **given)
    torch.manual_seed(99)
    for row in range(3):
        part = {name: value[row : row + 1] for name, value in given.items()}
        alone = decoder.loss(images[row : row + 1], embeddings[row : row + 1], **part)
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5)
    kept = decoder.loss(images, embeddings, **given | {"dropout": torch.full((3,), 0.9)})
    assert ((kept - whole).abs() > 1e-4).tolist() == [True, False, True]


def test_embedding_noise_blurs_the_condition_in_training_only(embeddings):
    images = torch.rand(3, 3, 16, 16)
    decoder = make_decoder(embedding_noise=0.5, empty_probability=0.0)
    first, second = (
        decoder.loss(images, embeddings, **random_inputs(3, blur=torch.full((3, 12), blur))) for blur in (0.0, 1.0)
    )
    assert not torch.equal(first, second)
    samples = [sample(decoder, embeddings, [0, 1, 2], num_steps=2) for _ in range(2)]
    assert torch.equal(*samples)


@pytest.mark.parametrize("layout_channels", [0, 4])
def test_another_embedding_gives_another_image(layout_channels, embeddings):
    decoder = make_decoder(layout_channels=layout_channels)
    one, other = (sample(decoder, z, [7], num_steps=2) for z in embeddings[:2].split(1))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_an_image_does_not_depend_on_its_batch(decoder, embeddings, guidance_scale):
    together = sample(decoder, embeddings, [5, 6, 7], num_steps=3, guidance_scale=guidance_scale)
    for row, seed in enumerate([5, 6, 7]):
        alone = sample(decoder, embeddings[row : row + 1], [seed], num_steps=3, guidance_scale=guidance_scale)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=0)


def test_another_seed_gives_another_image(decoder, embeddings):
    first, again, other = (sample(decoder, embeddings[:1], [seed], num_steps=2) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dynamic_thresholding_changes_what_is_saturated(embeddings):
    decoder = make_decoder()
    with torch.no_grad():
        decoder.unet.conv_out.weight.mul_(50)
    plain, dynamic = (sample(decoder, embeddings, [1, 2, 3], num_steps=2, dynamic_threshold=p) for p in (None, 0.9))
    assert (dynamic.abs() == 1).float().mean() < (plain.abs() == 1).float().mean()


def test_guidance_reaches_all_pixels_and_channels(decoder, embeddings):
    plain = sample(decoder, embeddings, [1, 2, 3], num_steps=1)
    guided = sample(decoder, embeddings, [1, 2, 3], num_steps=1, guidance_scale=3.0)
    moved = (plain != guided) | (plain.abs() == 1)  # clamped pixels have nowhere to go
    assert moved.float().mean() > 0.99
    assert (plain != guided).flatten(2).any(dim=2).all()


def test_guidance_scale_zero_ignores_the_embedding(decoder, embeddings):
    images = sample(decoder, embeddings[:2], [4, 4], num_steps=2, guidance_scale=0.0)
    torch.testing.assert_close(images[0], images[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("seeds", "found"), [([], "0 seeds"), ([1], "1 seeds")])
def test_each_embedding_needs_a_seed(decoder, embeddings, seeds, found):
    with pytest.raises(ValueError, match=f"found {found} for 3 embeddings: expected one seed per embedding"):
        sample(decoder, embeddings, seeds)


def test_weights_and_statistics_round_trip(decoder, embeddings):
    decoder.set_embedding_statistics(torch.full((12,), 0.5), torch.full((12,), 2.0))
    copy = read_spec(decoder.spec.to_dict()).build().eval()
    copy.load_state_dict(decoder.state_dict())
    assert torch.equal(
        sample(copy, embeddings, [1, 2, 3], num_steps=2), sample(decoder, embeddings, [1, 2, 3], num_steps=2)
    )


def test_it_trains_in_bfloat16_autocast(decoder, embeddings):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = decoder.loss(torch.rand(3, 3, 16, 16), embeddings, **random_inputs(3))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


def test_gradient_checkpointing_changes_no_gradient(embeddings):
    gradients = []
    for checkpointing in (False, True):
        decoder = make_decoder(gradient_checkpointing=checkpointing).train()
        decoder.loss(torch.zeros(3, 3, 16, 16), embeddings, **random_inputs(3)).mean().backward()
        gradients.append(decoder.conditioner.tokens.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
