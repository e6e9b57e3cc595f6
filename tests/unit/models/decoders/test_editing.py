"""Noise to a strength, then denoise: the kinds that can, from the image itself to a fresh one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from models.decoders.base import Decoder
from models.decoders.cascade import Cascade
from models.decoders.latent_diffusion.model import LatentDecoder
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentUNet
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.sampling import DecoderSampling
from models.decoders.stable_diffusion.model import StableDiffusionDecoder
from models.decoders.stable_diffusion.spec import StableDiffusionSpec
from models.decoders.upsampler.spec import UpsamplerSpec
from models.diffusion.spec import ProcessConfig
from stages.train_decoder.stable_diffusion.checkpoint import read_configs
from tests.specs import make_autoencoder_spec, make_spec
from tests.tiny_stable_diffusion import save_tiny_stable_diffusion
from tests.unit.models.decoders.stylegan2.factories import make_generator

EMBED, COUNT = 12, 6
SEEDS = list(range(COUNT))
SAMPLING = DecoderSampling(num_steps=8)
PROCESSES = {
    "flow": ProcessConfig(),
    "noise": ProcessConfig(path="ddpm", target="noise"),
    "velocity": ProcessConfig(path="ddpm", target="velocity", zero_terminal_snr=True),
}


def pixel_decoder(process: str) -> Decoder:
    small = {"embed_dim": EMBED, "resolution": 16, "unshuffle": 2, "channels": (32, 32), "token_dim": 16}
    return make_spec(PixelDiffusionSpec, **small, layout_channels=0, process=PROCESSES[process]).build()


def latent_decoder(process: str) -> LatentDecoder:
    autoencoder = make_autoencoder_spec(
        "kl", resolution=16, unshuffle=2, channels=(16,), blocks_per_level=1, latent_channels=3, attention=False
    )
    small = {"embed_dim": EMBED, "token_dim": 16, "layout_channels": 0, "scale_factor": 0.5, "shift": 0.2}
    network = LatentUNet(channels=(32, 32))
    spec = make_spec(LatentDiffusionSpec, autoencoder=autoencoder, network=network, process=PROCESSES[process], **small)
    return spec.build()


def stable_decoder(folder: Path) -> StableDiffusionDecoder:
    parts: dict[str, Any] = read_configs(str(save_tiny_stable_diffusion(folder / "checkpoint")))
    return StableDiffusionSpec(embed_dim=EMBED, resolution=16, **parts).build()


@pytest.fixture(params=["pixel-flow", "pixel-noise", "pixel-velocity", "latent-flow", "latent-noise", "stable"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> Decoder:
    torch.manual_seed(0)
    kind, _, process = request.param.partition("-")
    if kind == "stable":
        return stable_decoder(tmp_path).eval()
    return (pixel_decoder if kind == "pixel" else latent_decoder)(process).eval()


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    return torch.randn(COUNT, EMBED, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    coarse = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(16, 16), mode="nearest")


def through_autoencoder(decoder: Decoder, images: torch.Tensor) -> torch.Tensor:
    """Return what is left of images when nothing is done to them."""
    with torch.no_grad():
        match decoder:
            case LatentDecoder():
                return decoder.autoencoder.decode(decoder.autoencoder.encode(images)).clamp(-1, 1)
            case StableDiffusionDecoder():
                return decoder.vae.decode(decoder.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
            case _:
                return images


def entered(decoder: Decoder, images: torch.Tensor) -> tuple[torch.Tensor, torch.nn.Module]:
    """Return what of images is noised, and the network; latents are brought to unit variance first."""
    with torch.no_grad():
        match decoder:
            case LatentDecoder():
                latents = decoder.autoencoder.encode(images)
                object.__setattr__(decoder.spec, "scale_factor", 1 / float(latents.std()))
                object.__setattr__(decoder.spec, "shift", float(latents.mean()))
                return decoder.denoiser.to_noise(latents), decoder.denoiser
            case StableDiffusionDecoder():
                latents = decoder.vae.encode(images).latent_dist.mode()
                assert isinstance(decoder.spec.vae, dict)
                decoder.spec.vae.update(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))
                return decoder.denoiser.to_noise(latents), decoder.denoiser
            case _:
                return images, decoder


def test_from_the_image_itself_to_a_fresh_image(
    decoder: Decoder, images: torch.Tensor, embeddings: torch.Tensor
) -> None:
    def edited(strength: float) -> torch.Tensor:
        return decoder.edit(images, embeddings, SEEDS, SAMPLING, strength=strength)

    assert decoder.can_edit
    torch.testing.assert_close(edited(0.0), through_autoencoder(decoder, images), atol=1e-5, rtol=0)
    assert torch.equal(edited(1.0), decoder.sample(embeddings, SEEDS, SAMPLING))


def test_the_noise_that_is_denoised_grows_with_the_strength(
    decoder: Decoder, images: torch.Tensor, embeddings: torch.Tensor
) -> None:
    """Random networks draw nothing to be compared, so the first x_t is looked at: less and less of the image."""
    seen: list[torch.Tensor] = []
    start, denoiser = entered(decoder, images)
    predicted = denoiser.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    closeness = []
    for strength in (0.2, 0.4, 0.6, 0.8):
        seen.clear()
        decoder.edit(images, embeddings, SEEDS, SAMPLING, strength=strength)
        closeness.append(float(torch.corrcoef(torch.stack([seen[0].flatten(), start.flatten()]))[0, 1]))
        assert len(seen) == math.ceil(strength * SAMPLING.num_steps)
    predicted.remove()
    assert closeness == sorted(closeness, reverse=True)
    assert closeness[0] > 0.5 > abs(closeness[-1])


def test_an_image_is_edited_by_its_own_seed_alone(
    decoder: Decoder, images: torch.Tensor, embeddings: torch.Tensor
) -> None:
    together = decoder.edit(images, embeddings, SEEDS, SAMPLING, strength=0.5)
    alone = decoder.edit(images[3:4], embeddings[3:4], [3], SAMPLING, strength=0.5)
    torch.testing.assert_close(alone[0], together[3], atol=1e-3, rtol=0)
    other = decoder.edit(images[3:4], embeddings[3:4], [4], SAMPLING, strength=0.5)
    assert (other - alone).abs().max() > 1e-3


def test_a_denoiser_that_knows_its_image_leaves_the_source_step_by_step(
    images: torch.Tensor, embeddings: torch.Tensor
) -> None:
    """With a network that is sure of another image, the distance to the source grows with the strength."""
    torch.manual_seed(0)
    decoder = pixel_decoder("flow").eval()
    known = images.flip(0)
    decoder.register_forward_hook(lambda module, given, output: 0.3 * known + 0.7 * given[0])
    edits = [decoder.edit(images, embeddings, SEEDS, SAMPLING, strength=s) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    moved = [float((edit - images).square().mean()) for edit in edits]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert len(set(moved)) == len(moved)


def test_a_cascade_edits_its_small_images(images: torch.Tensor, embeddings: torch.Tensor) -> None:
    torch.manual_seed(0)
    level = make_spec(
        UpsamplerSpec, embed_dim=EMBED, from_resolution=16, resolution=32, channels=(32,), blocks_per_level=1
    )
    cascade = Cascade(pixel_decoder("flow"), [level.build()]).eval()
    large = torch.nn.functional.interpolate(images, size=(32, 32), mode="nearest")
    assert cascade.can_edit
    kept, changed, fresh = (cascade.edit(large, embeddings, SEEDS, SAMPLING, strength=s) for s in (0.0, 0.5, 1.0))
    assert kept.shape == (COUNT, 3, 32, 32)
    assert torch.equal(fresh, cascade.sample(embeddings, SEEDS, SAMPLING))
    assert not torch.equal(kept, changed)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_is_a_fraction(strength: float, images: torch.Tensor, embeddings: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"strength: found {strength}: expected 0 to 1"):
        pixel_decoder("flow").edit(images, embeddings, SEEDS, SAMPLING, strength=strength)


def test_kinds_without_denoising_are_refused(images: torch.Tensor, embeddings: torch.Tensor) -> None:
    generator = make_generator(embed_dim=EMBED)
    assert not generator.can_edit
    with pytest.raises(ValueError, match="found kind stylegan2, which does not generate by denoising"):
        generator.edit(images, embeddings, SEEDS, SAMPLING, strength=0.5)
