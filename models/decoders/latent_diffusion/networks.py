"""The networks that denoise latents: diffusers' U-Net, and a diffusion transformer.

Papers: Rombach et al. (arXiv 2112.10752), section 3.3; Peebles and Xie, DiT (arXiv 2212.09748); Chen et al., PixArt
(arXiv 2310.00426), section 2.3, whose blocks share one adaptive norm and cross-attend to the condition's tokens.
"""

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.latent_diffusion.spec import LatentDiffusionSpec, LatentTransformer, LatentUNet
from models.fields import HEAD_DIM, NORM_GROUPS

Latents = Float[Tensor, "batch channel row column"]


class UNet(nn.Module):
    """The U-Net: u joins the time embedding, and the tokens are attended to."""

    def __init__(self, spec: LatentDiffusionSpec, shape: LatentUNet) -> None:
        super().__init__()
        num_plain = len(shape.channels) - shape.attention_levels
        attends = [level >= num_plain for level in range(len(shape.channels))]
        self.unet = UNet2DConditionModel(
            sample_size=spec.autoencoder.latent_resolution,
            in_channels=spec.autoencoder.network.latent_channels + spec.conditioning.layout_channels,
            out_channels=spec.autoencoder.network.latent_channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            block_out_channels=shape.channels,
            layers_per_block=shape.blocks_per_level,
            attention_head_dim=tuple(width // HEAD_DIM for width in shape.channels),  # diffusers means head counts
            cross_attention_dim=spec.conditioning.token_dim,
            norm_num_groups=NORM_GROUPS,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="projection",
            projection_class_embeddings_input_dim=spec.embed_dim,
        )
        if spec.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(self, grid: Latents, timestep: Tensor, u: Tensor, tokens: Tensor) -> Latents:
        """Predict the target."""
        grid = grid.contiguous(memory_format=torch.channels_last)
        prediction: Tensor = self.unet(grid, timestep, tokens, class_labels=u, return_dict=False)[0]
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
        if spec.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

    def forward(self, grid: Latents, timestep: Tensor, u: Tensor, tokens: Tensor) -> Latents:
        """Predict the target; the condition comes by its tokens alone."""
        prediction: Tensor = self.transformer(grid, tokens, timestep, return_dict=False)[0]
        return prediction


def make_network(spec: LatentDiffusionSpec) -> UNet | Transformer:
    """Return the network that the spec describes."""
    if isinstance(spec.network, LatentUNet):
        return UNet(spec, spec.network)
    return Transformer(spec, spec.network)
