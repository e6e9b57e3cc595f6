"""Autoencoders of both kinds: shapes, the closed form of the divergence, the same bits after a round trip."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributions import Normal, kl_divergence

from models.autoencoders.registry import read_spec
from tests.specs import make_autoencoder_spec


def config(kind, **fields):
    small = {"resolution": 16, "unshuffle": 2, "channels": (16, 32), "blocks_per_level": 1, "latent_channels": 3}
    return make_autoencoder_spec(kind, **(small | {"attention": False, "num_codes": 8} | fields))


def make(kind, **fields):
    torch.manual_seed(0)
    return config(kind, **fields).build().eval()


def images(batch=2):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("fields", [{}, {"attention": True}, {"unshuffle": 1, "channels": (16,)}])
def test_latents_and_images_have_the_configured_shapes(kind, fields):
    model = make(kind, **fields)
    latents = model.encode(images())
    assert latents.shape[1:] == model.spec.latent_shape
    assert model.decode(latents).shape == (2, 3, 16, 16)


def test_the_divergence_is_that_of_two_normal_distributions():
    model, x = make("kl"), images()
    posterior = model.network.encode(model._folded(x)).latent_dist
    expected = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).sum((1, 2, 3))
    _, kl = model(x, torch.zeros(2, *model.spec.latent_shape))
    torch.testing.assert_close(kl, expected)


def test_the_noise_is_that_of_the_posterior():
    model, x = make("kl"), images()
    noise = torch.randn(2, *model.spec.latent_shape)
    posterior = model.network.encode(model._folded(x)).latent_dist
    torch.testing.assert_close(model(x, noise)[0], model.decode(posterior.mean + posterior.std * noise))
    torch.testing.assert_close(model(x, 0 * noise)[0], model.decode(model.encode(x)))


def test_the_divergence_keeps_its_precision_under_autocast():
    model, x = make("kl"), images()
    with torch.autocast("cpu", torch.bfloat16):
        reconstruction, kl = model(x, torch.zeros(2, *model.spec.latent_shape))
    assert kl.dtype == torch.float32
    assert reconstruction.shape == x.shape


def test_the_decoder_sees_nothing_but_the_codes():
    model, x = make("vq"), images()
    codes = model.encode_codes(x)
    assert codes.shape == (2, 4, 4)
    torch.testing.assert_close(model.decode_codes(codes), model.decode(model.encode(x)))
    torch.testing.assert_close(model(x)[0], model.decode_codes(codes))


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_saved_autoencoder_gives_the_same_bits(kind, tmp_path):
    model, x = make(kind), images()
    if kind == "vq":
        model.codebook(model.encode(x), torch.zeros(2))  # so that it is not as it was made
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "weights")
    read = read_spec(json.loads(json.dumps(model.spec.to_dict())))
    assert read == model.spec
    copy = read.build().eval()
    copy.load_state_dict(load_file(tmp_path / "weights"))
    assert torch.equal(copy.decode(copy.encode(x)), model.decode(model.encode(x)))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("channels", (), "one width per level"),
        ("channels", (16, 20), "multiples of 16"),
        ("resolution", 18, "a multiple of 4"),
        ("num_codes", 0, "1 or more"),
        ("code_decay", 1.0, "0 up to, not including, 1"),
        ("dead_fraction", -0.1, "0 up to, not including, 1"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, allowed):
    with pytest.raises(ValueError, match=rf"\.{field}: found .*expected {allowed}"):
        config("vq", **{field: value})


def test_an_unknown_kind_is_reported_with_the_known_ones():
    with pytest.raises(ValueError, match="found kind 'vae': expected one of kl, vq"):
        read_spec({"kind": "vae"})


def test_configs_can_be_read_without_torch():
    modules = "models.autoencoders.spec, models.decoders.latent_diffusion.spec, models.decoders.vq_autoregressive.spec"
    probe = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_levels_are_computed_again_in_the_backward_pass_on_request(kind):
    model, calls = make(kind), []
    model.recompute_in_backward()
    model.network.encoder.mid_block.register_forward_pre_hook(lambda *_: calls.append(1))
    model.encode(images().requires_grad_()).sum().backward()
    assert len(calls) == 2
