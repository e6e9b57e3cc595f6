"""The networks that denoise latents: diffusers' U-Net, a diffusion transformer, and an MLP.

Papers: Rombach et al. (arXiv 2112.10752), section 3.3; Peebles and Xie, DiT (arXiv 2212.09748); Chen et al., PixArt
(arXiv 2310.00426), section 2.3, whose blocks share one adaptive norm and cross-attend to the condition's tokens; Li et
al., RCG (arXiv 2312.03701) and MAR (arXiv 2406.11838), for MLPs that denoise one vector.
"""

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.decoders.denoiser import beside
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentMLP, LatentTransformer, LatentUNet
from models.decoders.spec import SIZE_NUMBERS
from models.decoders.unet import make_unet

Latents = Float[Tensor, "batch channel row column"]
_TIME_FREQUENCIES = 256


class UNet(nn.Module):
    """The U-Net: u joins the time embedding, and the tokens are attended to."""

    def __init__(self, spec: LatentDiffusionSpec, shape: LatentUNet) -> None:
        super().__init__()
        latents = spec.autoencoder.network.latent_channels
        self.unet = make_unet(
            shape.channels,
            shape.blocks_per_level,
            side=spec.autoencoder.latent_resolution,
            in_out=(latents + spec.conditioning.layout_channels, latents),
            embed_dim=spec.embed_dim + SIZE_NUMBERS * spec.size_features,
            token_dim=spec.conditioning.token_dim,
            attention_levels=shape.attention_levels,
        )
        if spec.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(self, grid: Latents, timestep: Tensor, u: Tensor, tokens: Tensor, sizes: Tensor | None) -> Latents:
        """Predict the target; features of sizes stand beside u."""
        grid = grid.contiguous(memory_format=torch.channels_last)
        prediction: Tensor = self.unet(grid, timestep, tokens, class_labels=beside(u, sizes), return_dict=False)[0]
        return prediction


class Transformer(nn.Module):
    """The transformer: time enters the adaptive norms, and the tokens are attended to."""

    def __init__(self, spec: LatentDiffusionSpec, shape: LatentTransformer) -> None:
        super().__init__()
        width = shape.num_heads * shape.head_dim
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=shape.num_heads,
            attention_head_dim=shape.head_dim,
            in_channels=spec.autoencoder.network.latent_channels + spec.conditioning.layout_channels,
            out_channels=spec.autoencoder.network.latent_channels,
            num_layers=shape.num_layers,
            cross_attention_dim=width,
            caption_channels=spec.conditioning.token_dim,
            sample_size=spec.autoencoder.latent_resolution,
            patch_size=shape.patch_size,
            use_additional_conditions=False,
        )
        features, width = SIZE_NUMBERS * spec.size_features, spec.conditioning.token_dim
        self.size_token = nn.Linear(features, width) if features else None
        if spec.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

    def forward(self, grid: Latents, timestep: Tensor, u: Tensor, tokens: Tensor, sizes: Tensor | None) -> Latents:
        """Predict the target; the condition comes by its tokens alone, of which features of sizes give one more."""
        if sizes is not None and self.size_token is not None:
            tokens = torch.cat([tokens, self.size_token(sizes.to(tokens.dtype))[:, None]], dim=1)
        prediction: Tensor = self.transformer(grid, tokens, timestep, return_dict=False)[0]
        return prediction


class AdaptiveLayer(nn.Module):
    """x + gate f(scale norm(x) + shift), of which the condition makes gate, scale and shift; at first it is x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.f = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adapt = nn.Linear(width, 3 * width)
        for parameter in self.adapt.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch width"], condition: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """Return what the next layer takes."""
        gate, scale, shift = self.adapt(condition).chunk(3, dim=-1)
        changed: Tensor = x + gate * self.f(self.norm(x) * (1 + scale) + shift)
        return changed


class MLP(nn.Module):
    """Residual layers on all latents as one vector: time and tokens enter the adaptive norms."""

    def __init__(self, spec: LatentDiffusionSpec, shape: LatentMLP) -> None:
        super().__init__()
        channels, side = spec.autoencoder.network.latent_channels, spec.autoencoder.latent_resolution
        conditioning, width = spec.conditioning, shape.width
        self._latents = (channels, side, side)
        self._checkpointing = spec.gradient_checkpointing
        self.enter = nn.Linear((channels + conditioning.layout_channels) * side**2, width)
        self.frequencies = Timesteps(_TIME_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(_TIME_FREQUENCIES, width)
        self.condition = nn.Sequential(
            nn.Linear(conditioning.num_tokens * conditioning.token_dim, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.layers = nn.ModuleList(AdaptiveLayer(width) for _ in range(shape.num_layers))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels * side**2))

    def forward(self, grid: Latents, timestep: Tensor, u: Tensor, tokens: Tensor, sizes: Tensor | None) -> Latents:
        """Predict the target; the condition comes by its tokens alone, and there are no sizes."""
        time = self.time(self.frequencies(timestep.expand(len(grid))).to(grid.dtype))
        condition = nn.functional.silu(time + self.condition(tokens.flatten(1)))
        x = self.enter(grid.flatten(1)) + condition
        for layer in self.layers:
            x = checkpoint(layer, x, condition, use_reentrant=False) if self._recomputes else layer(x, condition)
        prediction: Tensor = self.leave(x)
        return prediction.reshape(-1, *self._latents)

    @property
    def _recomputes(self) -> bool:
        return self._checkpointing and self.training


def make_network(spec: LatentDiffusionSpec) -> UNet | Transformer | MLP:
    """Return the network that the spec describes."""
    if isinstance(spec.network, LatentUNet):
        return UNet(spec, spec.network)
    if isinstance(spec.network, LatentMLP):
        return MLP(spec, spec.network)
    return Transformer(spec, spec.network)
