"""The latent decoder: the embedding reaches the image, the scale reaches the loss, and nothing else does."""

import json

import pytest
import torch

from models.decoders.buckets import DecoderBuckets
from models.decoders.latent_diffusion.model import LatentDecoder, LatentDenoiser
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentMLP, LatentTransformer, LatentUNet
from models.decoders.registry import read_spec
from models.decoders.sampling import DecoderSampling
from models.diffusion.spec import ProcessConfig
from tests.specs import make_autoencoder_spec, make_spec

UNET = LatentUNet(channels=(32, 32))
DIT = LatentTransformer(num_layers=2, num_heads=2, head_dim=16, patch_size=2)
VECTOR = LatentMLP(width=32, num_layers=2)
TWO_STEPS = DecoderSampling(num_steps=2)


def make_config(network=UNET, kind="kl", **fields):
    autoencoder = make_autoencoder_spec(
        kind, resolution=16, unshuffle=2, channels=(16,), blocks_per_level=1, latent_channels=3, attention=False,
        num_codes=8,
    )  # fmt: skip
    small = {"embed_dim": 12, "token_dim": 16, "layout_channels": 4, "layout_resolution": 4, "layout_hidden": 16}
    return make_spec(LatentDiffusionSpec, autoencoder=autoencoder, network=network, **(small | fields))


def make(network=UNET, **fields):
    torch.manual_seed(0)
    return LatentDecoder(make_config(network, **fields)).eval()


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def random_inputs(embeddings):
    generator = torch.Generator().manual_seed(2)
    return {
        "noise": torch.randn(3, 3, 8, 8, generator=generator),
        "time": torch.tensor([0.1, 0.5, 0.9]),
        "blur": torch.randn(embeddings.shape, generator=generator),
        "dropout": torch.tensor([0.05, 0.5, 0.7]),
    }


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
@pytest.mark.parametrize("layout_channels", [0, 4])
def test_another_embedding_gives_another_image(network, layout_channels, embeddings):
    decoder = make(network, layout_channels=layout_channels)
    one, other = (decoder.sample(z, [7], TWO_STEPS) for z in embeddings[:2].split(1))
    assert one.shape == (1, 3, 16, 16)
    assert one.abs().max() <= 1
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
def test_every_weight_of_the_denoiser_learns(network, embeddings, random_inputs):
    denoiser = make(network, empty_probability=0.1).denoiser
    denoiser.loss(torch.randn(3, 3, 8, 8), embeddings, **random_inputs).mean().backward()
    assert [name for name, weight in denoiser.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
def test_recomputing_blocks_changes_no_gradient(network, embeddings, random_inputs):
    latents, losses = torch.randn(3, 3, 8, 8), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        denoiser = LatentDenoiser(make_config(network, gradient_checkpointing=checkpointing)).train()
        loss = denoiser.loss(latents, embeddings, **random_inputs)
        loss.mean().backward()
        losses.append([loss.detach(), *[weight.grad for weight in denoiser.parameters()]])
    for plain, recomputed in zip(*losses, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_latents_are_diffused_by_their_scale(embeddings, random_inputs):
    latents = torch.randn(3, 3, 8, 8)
    plain = make().denoiser
    scaled = LatentDenoiser(make_config(scale_factor=0.5, shift=3.0)).eval()
    scaled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(
        scaled.loss(latents / 0.5 + 3.0, embeddings, **random_inputs), plain.loss(latents, embeddings, **random_inputs)
    )
    torch.testing.assert_close(scaled.from_noise(scaled.to_noise(latents)), latents)
    torch.testing.assert_close(scaled.from_noise(latents), latents / 0.5 + 3.0)


@pytest.mark.parametrize("path", ["flow", "ddpm"])
def test_generated_latents_are_not_bounded_as_pixels_are(path, embeddings):
    denoiser = make(process=ProcessConfig(path=path)).denoiser
    with torch.no_grad():
        for weight in denoiser.network.unet.conv_out.parameters():
            weight.mul_(100)
    assert denoiser.generate(embeddings, [1, 2, 3], TWO_STEPS).abs().max() > 3


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_an_image_does_not_depend_on_its_batch(network, embeddings, guidance_scale):
    decoder, sampling = make(network), DecoderSampling(num_steps=3, guidance_scale=guidance_scale)
    together = decoder.sample(embeddings, [5, 6, 7], sampling)
    alone = decoder.sample(embeddings[1:2], [6], sampling)
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=0)
    assert (decoder.sample(embeddings[1:2], [8], sampling) - alone).abs().max() > 1e-4


def test_guidance_scale_zero_ignores_the_embedding(embeddings):
    images = make().sample(embeddings[:2], [4, 4], DecoderSampling(num_steps=2, guidance_scale=0.0))
    torch.testing.assert_close(images[0], images[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_saved_decoder_gives_the_same_bits(network, kind, embeddings):
    decoder = make(network, kind=kind, scale_factor=2.0)
    decoder.set_embedding_statistics(torch.full((12,), 0.5), torch.full((12,), 2.0))
    copy = read_spec(json.loads(json.dumps(decoder.spec.to_dict()))).build().eval()
    assert copy.spec == decoder.spec
    copy.load_state_dict(decoder.state_dict())
    assert torch.equal(copy.sample(embeddings, [1, 2, 3], TWO_STEPS), decoder.sample(embeddings, [1, 2, 3], TWO_STEPS))


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
def test_the_prediction_depends_on_the_time(network, embeddings):
    denoiser, noisy = make(network).denoiser, torch.randn(3, 3, 8, 8)
    early, late = (denoiser(noisy, torch.full((3,), time), embeddings) for time in (10.0, 900.0))
    assert (early - late).abs().max() > 1e-4


@pytest.mark.parametrize("network", [UNET, DIT, VECTOR], ids=["unet", "dit", "mlp"])
def test_it_trains_in_bfloat16_autocast(network, embeddings, random_inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = make(network).denoiser.loss(torch.randn(3, 3, 8, 8), embeddings, **random_inputs)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout_resolution": 3}, r"Conditioning\.layout_resolution: found 3: expected a divisor of .* 8"),
        ({"scale_factor": 0.0}, r"LatentDiffusionSpec\.scale_factor: found 0\.0: expected above 0"),
        ({"network": LatentTransformer(patch_size=3)}, r"network: found .*expected one whose grid of 3 divides"),
        (
            {"network": VECTOR, "buckets": DecoderBuckets(step=4)},
            r"LatentDiffusionSpec\.buckets: found .* none with network",
        ),
        ({"empty_probability": 1.0}, r"empty_probability: found 1\.0: expected 0 up to, not including, 1"),
    ],
)
def test_impossible_values_are_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        make_config(**fields)


def test_impossible_networks_are_refused_by_name():
    with pytest.raises(ValueError, match=r"LatentUNet\.channels: found \(32, 50\): expected multiples of 32"):
        LatentUNet(channels=(32, 50))
    with pytest.raises(ValueError, match=r"LatentTransformer\.head_dim: found 15: expected one that makes"):
        LatentTransformer(num_heads=2, head_dim=15)
    with pytest.raises(ValueError, match=r"LatentMLP\.width: found 0"):
        LatentMLP(width=0)
