"""The two sources of latents behind one call."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.autoencoders.model import VQAutoencoder
from stages.contract.errors import InputFault
from stages.encode_latents.config import VAE, EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encoders.identity import digest_tensors
from stages.encoders.model_files import describe_load_error
from stages.formats.latents import EncoderIdentity, EncoderWeights
from stages.inference.autoencoder import load_autoencoder
from stages.storage.artifact import Artifact

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class Encoded:
    """Latents of a batch, and the codes nearest to them where the autoencoder has a codebook."""

    latents: Float[Tensor, "batch channel row column"]
    codes: Int[Tensor, "batch row column"] | None = None


@dataclass(frozen=True)
class ImageEncoder:
    """An autoencoder's first half."""

    identity: EncoderIdentity
    """What the encoder makes, of which images."""
    encode: Callable[[Images], Encoded]
    """Of images in [-1, 1]."""


def make_encoder(
    config: EncodeByAutoencoder | EncodeByStableDiffusion, inputs: Mapping[str, Artifact], device: str
) -> ImageEncoder:
    """Load the encoder that the configuration names."""
    if isinstance(config, EncodeByAutoencoder):
        encoder = _trained(inputs["train_autoencoder"], device)
    else:
        encoder = _stable_diffusion(config, device)
    if config.buckets is None:
        return encoder
    identity = encoder.identity
    try:
        config.buckets.require_fit(identity.resolution, identity.resolution // identity.shape[1])
    except ValueError as error:
        raise InputFault(f"encode_latents.buckets: {error}: change it here and in train_decoder") from None
    return replace(encoder, identity=identity.model_copy(update={"buckets": config.buckets}))


def _trained(artifact: Artifact, device: str) -> ImageEncoder:
    """Load the autoencoder of train_autoencoder."""
    model = load_autoencoder(artifact).to(device)
    identity = EncoderIdentity(
        resolution=model.spec.resolution,
        shape=model.spec.latent_shape,
        num_codes=model.spec.num_codes,
        scale_factor=None,
        shift=0.0,
        encoder=_weights("train_autoencoder", model),
    )

    def encode(images: Images) -> Encoded:
        latents = model.encode(images).float()
        return Encoded(latents, model.codebook.nearest(latents) if isinstance(model, VQAutoencoder) else None)

    return ImageEncoder(identity, encode)


def _stable_diffusion(config: EncodeByStableDiffusion, device: str) -> ImageEncoder:
    """Load the autoencoder of a Stable Diffusion checkpoint; latents are the means of its posterior."""
    model = _load_vae(config).to(device)
    options = model.config
    factor = 2 ** (len(options.block_out_channels) - 1)
    if config.resolution % factor:
        raise InputFault(
            f"encode_latents.resolution: found {config.resolution}: expected a multiple of {factor}, the "
            "number of pixels that one latent of this checkpoint covers: change it"
        )
    side = config.resolution // factor
    identity = EncoderIdentity(
        resolution=config.resolution,
        shape=(int(options.latent_channels), side, side),
        num_codes=None,
        scale_factor=float(options.scaling_factor),
        shift=float(options.shift_factor or 0.0),
        encoder=_weights(config.name or str(config.path), model),
    )
    return ImageEncoder(identity, lambda images: Encoded(model.encode(images).latent_dist.mean.float()))


def _load_vae(config: EncodeByStableDiffusion) -> Any:
    from diffusers import AutoencoderKL

    source = config.name or str(config.path)
    try:
        model = AutoencoderKL.from_pretrained(source, subfolder=VAE, torch_dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # the libraries raise errors of many types
        reason = describe_load_error(error)
        raise InputFault(
            f"encode_latents: diffusers cannot load the autoencoder of {source} ({reason}): expected a Stable "
            "Diffusion checkpoint in diffusers' format: where there is no network, copy it and give its folder (path)"
        ) from error
    return model.eval().requires_grad_(False)


def _weights(reference: str, model: nn.Module) -> EncoderWeights:
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return EncoderWeights(reference=reference, digest=digest_tensors(weights, hashlib.sha256()))
