"""The networks that denoise latents: diffusers' U-Net, and a diffusion transformer.

Papers: Rombach et al. (arXiv 2112.10752), section 3.3; Peebles and Xie, DiT (arXiv 2212.09748); Chen et al., PixArt
(arXiv 2310.00426), section 2.3, whose blocks share one adaptive norm and cross-attend to the condition's tokens.
"""

import torch
from diffusers import PixArtTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.denoiser import beside
from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentTransformer, LatentUNet
from models.decoders.spec import SIZE_NUMBERS
from models.decoders.unet import make_unet

Latents = Float[Tensor, "batch channel row column"]


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


def make_network(spec: LatentDiffusionSpec) -> UNet | Transformer:
    """Return the network that the spec describes."""
    if isinstance(spec.network, LatentUNet):
        return UNet(spec, spec.network)
    return Transformer(spec, spec.network)
