"""The two sources of latents behind one call."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.autoencoders.model import VQAutoencoder
from stages.contract.errors import InputFault
from stages.encode_latents.config import VAE, EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encoders.identity import digest_tensors
from stages.formats.latents import EncoderIdentity, EncoderWeights
from stages.inference.autoencoder import load_autoencoder
from stages.storage.artifact import Artifact

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class Encoded:
    """Latents of a batch, and the codes nearest to them where the autoencoder has a codebook."""

    latents: Float[Tensor, "batch channel row column"]
    codes: Int[Tensor, "batch row column"] | None = None


class ImageEncoder(Protocol):
    """An autoencoder's first half."""

    @property
    def identity(self) -> EncoderIdentity:
        """What the encoder makes, of which images."""
        ...

    def encode(self, images: Images) -> Encoded:
        """Encode images in [-1, 1]."""
        ...


class TrainedEncoder:
    """The autoencoder of train_autoencoder."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        """Load it."""
        self._model = load_autoencoder(artifact).to(device)
        spec = self._model.spec
        self.identity = EncoderIdentity(
            resolution=spec.resolution,
            shape=spec.latent_shape,
            num_codes=spec.num_codes,
            scale_factor=None,
            shift=0.0,
            encoder=_weights("train_autoencoder", self._model),
        )

    def encode(self, images: Images) -> Encoded:
        """Encode images in [-1, 1]."""
        latents = self._model.encode(images).float()
        codes = self._model.codebook.nearest(latents) if isinstance(self._model, VQAutoencoder) else None
        return Encoded(latents, codes)


class StableDiffusionEncoder:
    """The autoencoder of a Stable Diffusion checkpoint; latents are the means of its posterior."""

    def __init__(self, config: EncodeByStableDiffusion, device: str) -> None:
        """Load it."""
        self._model = _load_vae(config).to(device)
        options = self._model.config
        factor = 2 ** (len(options.block_out_channels) - 1)
        if config.resolution % factor:
            raise InputFault(
                f"encode_latents.resolution: found {config.resolution}: expected a multiple of {factor}, the "
                "number of pixels that one latent of this checkpoint covers: change it"
            )
        side = config.resolution // factor
        self.identity = EncoderIdentity(
            resolution=config.resolution,
            shape=(int(options.latent_channels), side, side),
            num_codes=None,
            scale_factor=float(options.scaling_factor),
            shift=float(options.shift_factor or 0.0),
            encoder=_weights(config.name or str(config.path), self._model),
        )

    def encode(self, images: Images) -> Encoded:
        """Encode images in [-1, 1]."""
        return Encoded(self._model.encode(images).latent_dist.mean.float())


def make_encoder(
    config: EncodeByAutoencoder | EncodeByStableDiffusion, inputs: Mapping[str, Artifact], device: str
) -> ImageEncoder:
    """Load the encoder that the configuration names."""
    if isinstance(config, EncodeByAutoencoder):
        return TrainedEncoder(inputs["train_autoencoder"], device)
    return StableDiffusionEncoder(config, device)


def _load_vae(config: EncodeByStableDiffusion) -> Any:
    from diffusers import AutoencoderKL

    source = config.name or str(config.path)
    try:
        model = AutoencoderKL.from_pretrained(source, subfolder=VAE, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputFault(
            f"encode_latents: diffusers cannot load the autoencoder of {source} ({reason}): expected a Stable "
            "Diffusion checkpoint in diffusers' format: where there is no network, copy it and give its folder (path)"
        ) from error
    return model.eval().requires_grad_(False)


def _weights(reference: str, model: nn.Module) -> EncoderWeights:
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return EncoderWeights(reference=reference, digest=digest_tensors(weights, hashlib.sha256()))
