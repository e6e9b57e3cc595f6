"""The first stage of latent decoders: images to a small grid of latents and back.

Papers: Rombach et al., Latent diffusion (arXiv 2112.10752), section 3.1 and appendix G, for both kinds;
Kingma and Welling, Auto-encoding variational Bayes (arXiv 1312.6114), for kind kl;
van den Oord et al. (arXiv 1711.00937), for kind vq.

Symbols: x = image in [-1, 1]: [batch, 3, height, width]; z = latents: [batch, channel, row, column].
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoders.codebook import Codebook, Quantized
from models.autoencoders.spec import NORM_GROUPS, AutoencoderSpec, KLAutoencoderSpec, VQAutoencoderSpec

Images = Float[Tensor, "batch 3 height width"]
Latents = Float[Tensor, "batch channel row column"]
Codes = Int[Tensor, "batch row column"]


class Autoencoder(nn.Module):
    """Both kinds: diffusers' encoder and decoder around a bottleneck."""

    network: AutoencoderKL | VQModel

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.spec = spec

    def encode(self, images: Images) -> Latents:
        """Return the latents that a diffusion model learns: the mean, or what comes before the codebook."""
        raise NotImplementedError

    def decode(self, latents: Latents) -> Images:
        """Return the images; not clamped to [-1, 1]."""
        raise NotImplementedError

    def recompute_in_backward(self) -> None:
        """Keep no activations of the levels in training; they are computed again in the backward pass."""
        self.network._supports_gradient_checkpointing = True  # of its encoder and decoder, which VQModel does not say
        self.network.enable_gradient_checkpointing()

    def _folded(self, images: Images) -> Tensor:
        return F.pixel_unshuffle(images, self.spec.network.unshuffle).contiguous(memory_format=torch.channels_last)

    def _unfolded(self, grid: Tensor) -> Images:
        return F.pixel_shuffle(grid, self.spec.network.unshuffle)


class KLAutoencoder(Autoencoder):
    """Latents have a normal distribution, pulled towards the standard one."""

    def __init__(self, spec: KLAutoencoderSpec) -> None:
        super().__init__(spec)
        self.network = AutoencoderKL(**_network_options(spec), use_quant_conv=True, use_post_quant_conv=True)

    def forward(self, images: Images, noise: Latents) -> tuple[Images, Float[Tensor, "batch"]]:
        """Return the reconstruction from z = mean + std * noise, and KL(q(z|x) || N(0, 1)) in nats."""
        posterior = self._posterior(images)
        return self.decode(posterior.mean + posterior.std * noise), posterior.kl()

    def encode(self, images: Images) -> Latents:
        """Return the mean of q(z|x)."""
        mean: Tensor = self._posterior(images).mean
        return mean

    def decode(self, latents: Latents) -> Images:
        """Return the images."""
        return self._unfolded(self.network.decode(latents).sample)

    def _posterior(self, images: Images) -> DiagonalGaussianDistribution:
        """Return q(z|x) in single precision, whatever the network computes in."""
        moments = self.network.encode(self._folded(images)).latent_dist.parameters
        return DiagonalGaussianDistribution(moments.float())


class VQAutoencoder(Autoencoder):
    """Latents are the nearest codes of a codebook; diffusion works before it, so that the decoder quantises."""

    spec: VQAutoencoderSpec

    def __init__(self, spec: VQAutoencoderSpec) -> None:
        super().__init__(spec)
        self.network = VQModel(**_network_options(spec), num_vq_embeddings=1)
        del self.network.quantize  # diffusers' codebook learns by gradient and lets codes die: ours replaces it
        self.codebook = Codebook(spec.codebook, spec.network.latent_channels)

    def forward(self, images: Images, positions: Float[Tensor, "batch"] | None = None) -> tuple[Images, Quantized]:
        """Return the reconstruction and what the codebook did; ``positions`` as in :class:`Codebook`."""
        quantized = self.codebook(self.encode(images), positions)
        return self._decode_codes(quantized.latents), quantized

    def encode(self, images: Images) -> Latents:
        """Return the encoder's output, before the codebook."""
        z: Tensor = self.network.encode(self._folded(images)).latents
        return z

    def encode_codes(self, images: Images) -> Codes:
        """Return the index of the code at each position."""
        return self.codebook.nearest(self.encode(images).float())

    def decode(self, latents: Latents) -> Images:
        """Return the images of the codes nearest to the latents."""
        return self._decode_codes(self.codebook(latents).latents)

    def decode_codes(self, codes: Codes) -> Images:
        """Return the images of codes."""
        return self._decode_codes(self.codebook.lookup(codes))

    def _decode_codes(self, latents: Latents) -> Images:
        return self._unfolded(self.network.decoder(self.network.post_quant_conv(latents)))


def _network_options(spec: AutoencoderSpec) -> dict[str, Any]:
    network = spec.network
    num_levels = len(network.channels)
    pixel_channels = 3 * network.unshuffle**2
    return {
        "in_channels": pixel_channels,
        "out_channels": pixel_channels,
        "down_block_types": ("DownEncoderBlock2D",) * num_levels,
        "up_block_types": ("UpDecoderBlock2D",) * num_levels,
        "block_out_channels": network.channels,
        "layers_per_block": network.blocks_per_level,
        "latent_channels": network.latent_channels,
        "norm_num_groups": NORM_GROUPS,
        "sample_size": spec.resolution // network.unshuffle,
        "mid_block_add_attention": network.attention,
    }
