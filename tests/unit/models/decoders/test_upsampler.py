"""Super-resolution: what the model is conditioned on reaches the image, crops agree with wholes, noise has its std."""

import pytest
import torch

from models.decoders.cascade import Cascade, CascadeSpec, level_seed
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.sampling import DecoderSampling
from models.decoders.upsampler.model import augment
from models.decoders.upsampler.spec import UpsamplerSpec
from models.diffusion.spec import ProcessConfig
from tests.specs import make_spec

DIM = 6


def make_upsampler(**fields):
    torch.manual_seed(0)
    small = {"embed_dim": DIM, "from_resolution": 8, "resolution": 16, "unshuffle": 2, "channels": (32, 32)}
    return make_spec(UpsamplerSpec, **(small | {"blocks_per_level": 1} | fields)).build().eval()


def make_base():
    torch.manual_seed(1)
    fields = {"unshuffle": 2, "channels": (32,), "token_dim": 16, "layout_channels": 0}
    return make_spec(PixelDiffusionSpec, embed_dim=DIM, resolution=8, **fields).build().eval()


def random_inputs(count, side=16, **given):
    generator = torch.Generator().manual_seed(0)
    made = {
        "noise": torch.randn(count, 3, side, side, generator=generator),
        "small_noise": torch.randn(count, 3, side // 2, side // 2, generator=generator),
        "blur": torch.randn(count, DIM, generator=generator),
        "time": torch.rand(count, generator=generator),
        "augmentation": torch.rand(count, generator=generator),
        "dropout": torch.tensor([0.05, *[0.9] * (count - 1)]),
    }
    return made | given


@pytest.fixture(scope="module")
def upsampler():
    return make_upsampler()


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_noise_augmentation_has_the_given_std_and_keeps_the_variance():
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(3, 3, 96, 96, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.0, 0.3, 0.8])
    noisy = augment(images, noise, sigma)
    assert torch.equal(noisy[0], images[0])
    rest = noisy - (1 - sigma.square()).sqrt()[:, None, None, None] * images
    torch.testing.assert_close(rest.std(dim=(1, 2, 3)), sigma, atol=0.01, rtol=0)
    torch.testing.assert_close(noisy.var(dim=(1, 2, 3)), torch.ones(3), atol=0.05, rtol=0)


@pytest.mark.parametrize("process", [ProcessConfig(), ProcessConfig(path="ddpm", target="velocity")])
def test_every_weight_learns_from_the_loss(process, small, embeddings):
    upsampler = make_upsampler(process=process, embedding_noise=0.1)
    loss = upsampler.loss(torch.rand(2, 3, 16, 16), small, embeddings, random_inputs(2))
    assert loss.shape == (2,)
    loss.mean().backward()
    assert [name for name, weight in upsampler.named_parameters() if weight.grad is None] == []


def test_training_takes_crops(upsampler, embeddings):
    loss = upsampler.loss(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4), embeddings, random_inputs(2, side=8))
    assert loss.isfinite().all()


def test_the_noise_of_the_small_image_is_bounded_and_reported(upsampler, small, embeddings):
    images = torch.rand(2, 3, 16, 16)

    def loss(augmentation, noise):
        given = random_inputs(
            2, augmentation=torch.full((2,), augmentation), small_noise=torch.full((2, 3, 8, 8), noise)
        )
        return upsampler.loss(images, small, embeddings, given)

    assert torch.equal(loss(0.0, 1.0), loss(0.0, 5.0))
    assert not torch.equal(loss(0.5, 1.0), loss(0.5, 5.0))
    still = make_upsampler(max_noise=0.0)
    given = [random_inputs(2, small_noise=torch.full((2, 3, 8, 8), noise)) for noise in (0.0, 9.0)]
    assert torch.equal(*(still.loss(images, small, embeddings, one) for one in given))
    outputs = [upsampler(images, torch.zeros(2), small, torch.full((2,), sigma), embeddings) for sigma in (0.0, 0.4)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_small_image_embedding_and_seed_reach_the_large_one(upsampler, small, embeddings):
    sampling = DecoderSampling(num_steps=2, guidance_scale=2.0, noise_augmentation=0.2)
    first = upsampler.sample(small, embeddings, [1, 2], sampling)
    assert first.shape == (2, 3, 16, 16)
    assert first.abs().max() <= 1
    for changed in (
        upsampler.sample(-small, embeddings, [1, 2], sampling),
        upsampler.sample(small, -embeddings, [1, 2], sampling),
        upsampler.sample(small, embeddings, [3, 4], sampling),
        upsampler.sample(small, embeddings, [1, 2], DecoderSampling(num_steps=2, guidance_scale=2.0)),
    ):
        assert ((first - changed).abs().flatten(1).max(dim=1).values > 1e-4).all()
    alone = upsampler.sample(small[1:], embeddings[1:], [2], sampling)
    torch.testing.assert_close(alone[0], first[1], atol=1e-4, rtol=0)


def test_a_cascade_joins_what_was_trained_apart(upsampler, embeddings):
    base, top = make_base(), make_upsampler(from_resolution=16, resolution=32)
    cascade = Cascade(base, [upsampler, top])
    assert (cascade.spec.resolution, cascade.spec.embed_dim) == (32, DIM)
    sampling = DecoderSampling(num_steps=2, upsampling_steps=1)
    images = cascade.sample(embeddings, [4, 5], sampling)
    assert images.shape == (2, 3, 32, 32)
    expected = base.sample(embeddings, [4, 5], sampling)
    expected = upsampler.sample(expected, embeddings, [level_seed(seed, 1) for seed in (4, 5)], sampling)
    expected = top.sample(expected, embeddings, [level_seed(seed, 2) for seed in (4, 5)], sampling)
    assert torch.equal(images, expected)
    assert len({level_seed(seed, level) for seed in range(50) for level in (1, 2)}) == 100


def test_models_that_do_not_follow_one_another_are_refused(upsampler):
    with pytest.raises(ValueError, match=r"from 8 pixels .* expected 16 pixels and width 6, which the upsampler"):
        Cascade(make_base(), [upsampler, upsampler])
    with pytest.raises(ValueError, match="embeddings of width 7: expected 8 pixels and width 6, which the pixel_diff"):
        CascadeSpec(make_base().spec, (make_upsampler(embed_dim=7).spec,))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("resolution", 8, "a multiple of from_resolution, 8, by 2 or more"),
        ("resolution", 20, "a multiple of from_resolution"),
        ("resolution", 18, "a multiple of 4"),
        ("channels", (31,), "multiples of 32"),
        ("max_noise", 1.5, "0 to 1"),
        ("empty_probability", 1.0, "0 up to"),
        ("embedding_noise", -1.0, "0 or more"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, allowed):
    fields = {"embed_dim": DIM, "from_resolution": 8, "resolution": 16, "unshuffle": 2, "channels": (32, 32)}
    with pytest.raises(ValueError, match=rf"(UpsamplerSpec|UpsamplerUNet)\.{field}: found .*expected {allowed}"):
        make_spec(UpsamplerSpec, **(fields | {field: value}))


def test_specs_survive_a_round_trip():
    spec = make_upsampler(process=ProcessConfig(path="ddpm")).spec
    assert UpsamplerSpec.from_dict(spec.to_dict()) == spec
    assert Cascade(make_base(), [make_upsampler()]).spec.to_dict()["upsamplers"][0]["kind"] == "upsampler"
