"""The decoders at the sizes of their papers, as configs/paper/ has them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.measure import Batch, Case
from models.autoencoders.spec import AutoencoderNetwork, CodebookSettings, KLAutoencoderSpec, VQAutoencoderSpec
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentUNet
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec, PixelUNet
from models.decoders.sampling import DecoderSampling
from models.decoders.spec import Conditioning, DecoderSpec, RandomInput
from models.decoders.stable_diffusion.published import published_parts
from models.decoders.stable_diffusion.spec import StableDiffusionSpec
from models.decoders.stylegan2.adversary import Adversary
from models.decoders.stylegan2.spec import (
    AdversarialSettings,
    DiscriminatorNetwork,
    DiscriminatorSpec,
    GeneratorNetwork,
    StyleGan2Spec,
)
from models.decoders.vq_autoregressive.spec import CodeNetwork, VQAutoregressiveSpec
from models.diffusion.spec import ProcessConfig

EMBED_DIM = 1536
NOISE = ProcessConfig(path="ddpm", target="noise", schedule="cosine")


def decoder_cases(*, quick: bool) -> list[Case]:
    """Return a case for each kind; quick: at the sizes of the specs' defaults."""
    embed_dim = 16 if quick else EMBED_DIM
    specs = _quick_specs(embed_dim) if quick else _paper_specs(embed_dim)
    return [
        Case(
            name=f"decoder {name}",
            size=size,
            build=spec.build_training,
            build_sampler=spec.build,
            batch=_batcher(spec),
            sample=_sample,
            train_batch=2 if quick else batch,
            sample_batch=2 if quick else 16,
            num_steps=2 if quick else 25,
            compare=2 if quick else 1,
            min_mfu=0.0 if quick or name != "pixel_diffusion" else 0.45,
        )
        for name, (spec, size, batch) in specs.items()
    ] + [_stylegan2(embed_dim, quick=quick)]


def _paper_specs(embed_dim: int) -> dict[str, tuple[DecoderSpec, str, int]]:
    first_stage = AutoencoderNetwork(channels=(128, 256, 512, 512))
    unet = PixelUNet(
        unshuffle=1, channels=(512, 1024, 1536, 2048), blocks_per_level=3, attention_levels=3, token_dim=2048,
        layout_channels=0, embedding_noise=0.0, gradient_checkpointing=False,
    )  # fmt: skip
    return {
        "pixel_diffusion": (
            PixelDiffusionSpec(embed_dim=embed_dim, resolution=64, network=unet, process=NOISE), "64 px", 16
        ),
        "latent_diffusion": (
            LatentDiffusionSpec(
                embed_dim=embed_dim,
                autoencoder=KLAutoencoderSpec(resolution=256, network=first_stage),
                network=LatentUNet(channels=(320, 640, 1280, 1280), blocks_per_level=2, attention_levels=3),
                conditioning=Conditioning(token_dim=1280, layout_channels=0, embedding_noise=0.0),
                process=ProcessConfig(path="ddpm", target="noise", schedule="linear", loss_weight="uniform"),
            ),
            "256 px",
            64,
        ),
        "stable_diffusion": (
            StableDiffusionSpec(embed_dim=embed_dim, resolution=512, **_stable_diffusion_2()),
            "512 px",
            16,
        ),
        "vq_autoregressive": (
            VQAutoregressiveSpec(
                embed_dim=embed_dim,
                autoencoder=VQAutoencoderSpec(
                    resolution=256,
                    network=AutoencoderNetwork(channels=(128, 256, 256, 512), latent_channels=256),
                    codebook=CodebookSettings(num_codes=8192),
                ),
                network=CodeNetwork(
                    width=3968, num_layers=4, num_heads=62, feed_forward_factor=2.667, num_tokens=8, layout_channels=0
                ),
            ),
            "256 px, 4 of 64 layers",
            8,
        ),
    }  # fmt: skip


def _quick_specs(embed_dim: int) -> dict[str, tuple[DecoderSpec, str, int]]:
    network = AutoencoderNetwork(channels=(32, 32), blocks_per_level=1, attention=False)
    parts = _stable_diffusion_2()
    narrow = {"block_out_channels": (32, 32, 32, 32), "attention_head_dim": 8, "cross_attention_dim": 32}
    parts["unet"] = {**parts["unet"], **narrow, "layers_per_block": 1}
    parts["vae"] = {**parts["vae"], "block_out_channels": (32, 32, 32, 32)}
    return {
        "pixel_diffusion": (PixelDiffusionSpec(embed_dim=embed_dim, resolution=64, process=NOISE), "tiny", 2),
        "latent_diffusion": (
            LatentDiffusionSpec(
                embed_dim=embed_dim,
                autoencoder=KLAutoencoderSpec(resolution=32, network=network),
                network=LatentUNet(channels=(32, 32), blocks_per_level=1, attention_levels=1),
            ),
            "tiny",
            2,
        ),
        "stable_diffusion": (StableDiffusionSpec(embed_dim=embed_dim, resolution=64, **parts), "tiny", 2),
        "vq_autoregressive": (
            VQAutoregressiveSpec(
                embed_dim=embed_dim, autoencoder=VQAutoencoderSpec(resolution=16, network=network)
            ),
            "tiny",
            2,
        ),
    }  # fmt: skip


def _stable_diffusion_2() -> dict[str, Any]:
    """Return the parts of the checkpoint, its autoencoder's blocks included."""
    parts = published_parts("stabilityai/stable-diffusion-2-base")
    levels = len(parts["vae"]["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return {**parts, "vae": {**parts["vae"], **blocks, "layers_per_block": 2}}


def _data(spec: DecoderSpec, count: int) -> Batch:
    """Return what the loss reads of images: bytes, latents or codes."""
    match spec:
        case VQAutoregressiveSpec():
            return {"codes": torch.randint(spec.num_codes, (count, spec.num_positions))}
        case LatentDiffusionSpec():
            return {"latents": torch.randn(count, *spec.autoencoder.latent_shape)}
        case StableDiffusionSpec():
            return {"latents": torch.randn(count, *spec.latent_shape)}
        case _:
            assert isinstance(spec, PixelDiffusionSpec)
            return {"images": torch.randint(256, (count, spec.resolution, spec.resolution, 3)).to(torch.uint8)}


def _random(wanted: RandomInput, count: int) -> Tensor:
    return torch.randn(count, *wanted.shape) if wanted.source == "normal" else torch.rand(count, *wanted.shape)


def _batcher(spec: DecoderSpec) -> Callable[[int], Batch]:
    def batch(count: int) -> Batch:
        random_inputs = {name: _random(wanted, count) for name, wanted in spec.random_inputs().items()}
        return {"embeddings": torch.randn(count, spec.embed_dim), **_data(spec, count), **random_inputs}

    return batch


def _sample(decoder: nn.Module, batch: Batch, num_steps: int) -> Tensor:
    embeddings = batch["embeddings"]
    sampling = DecoderSampling(num_steps=num_steps, guidance_scale=2.0, truncation=0.7)
    images: Tensor = decoder.sample(embeddings, range(len(embeddings)), sampling)  # type: ignore[operator]
    return images


def _stylegan2(embed_dim: int, *, quick: bool) -> Case:
    """Both networks under one loss, without CLIP's term and in a step in which no regularisation is due."""
    resolution = 64 if quick else 256
    generator, discriminator = GeneratorNetwork(), DiscriminatorNetwork()
    if not quick:
        channels = (512, 512, 512, 512, 256, 128, 64)
        generator = GeneratorNetwork(
            channels=channels, patch_size=1, latent_dim=512, style_dim=512, mapping_layers=8, mapping_rate=0.01,
            condition_dim=512, start="constant", layer_noise=True,
        )  # fmt: skip
        discriminator = DiscriminatorNetwork(channels=channels, patch_size=1, feature_dim=512)
    spec = StyleGan2Spec(embed_dim=embed_dim, resolution=resolution, network=generator)
    critic = DiscriminatorSpec(embed_dim=embed_dim, resolution=resolution, network=discriminator)
    with torch.device("meta"):
        noise_size = spec.build().noise_size

    def batch(count: int) -> Batch:
        return {
            "images": torch.rand(count, 3, resolution, resolution) * 2 - 1,
            "embeddings": torch.randn(count, embed_dim),
            "latent": torch.randn(count, generator.latent_dim),
            "noise": torch.randn(count, noise_size),
        }

    return Case(
        name="decoder stylegan2",
        size="tiny" if quick else "256 px",
        build=lambda: Adversary(spec.build(), critic.build(), AdversarialSettings(clip_weight=0.0, r1_weight=0.0)),
        build_sampler=spec.build,
        batch=batch,
        sample=_sample,
        train_batch=2 if quick else 32,
        sample_batch=2 if quick else 16,
        num_steps=1,
    )
